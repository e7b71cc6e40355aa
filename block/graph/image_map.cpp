#include "block/graph/image_map.h"

namespace blockbed {

namespace {

Task<Result<MapRun>> ask(Node& top, uint64_t offset, uint64_t length) {
  Node* node = top.skip_filters();
  MapRun run;
  run.start = offset;
  run.length = length;
  for (;;) {
    auto status = co_await node->block_status(offset, run.length);
    if (!status) co_return io_error(status.error());
    // Behind the end of a layer that is shorter than the disk there is nothing.
    if (status->length == 0) co_return run;
    run.length = std::min(run.length, status->length);
    if (status->zero || status->data) {
      run.present = status->allocated;
      run.zero = status->zero;
      run.data = status->data;
      if (status->offset) {
        run.offset = status->offset;
        if (status->file != nullptr) run.file = status->file->filename();
      }
      co_return run;
    }
    Node* below = node->backing_node();
    if (below == nullptr) co_return run;
    node = below->skip_filters();
    ++run.depth;
  }
}

bool continues(const MapRun& run, const MapRun& next) {
  if (run.depth != next.depth || run.present != next.present || run.zero != next.zero ||
      run.data != next.data || run.offset.has_value() != next.offset.has_value()) {
    return false;
  }
  if (!run.offset) return true;
  return *run.offset + run.length == *next.offset && run.file == next.file;
}

}  // namespace

Task<Result<MapRun>> next_run(Node& top, uint64_t offset, uint64_t end) {
  auto first = co_await ask(top, offset, end - offset);
  if (!first) co_return first;
  MapRun run = std::move(*first);
  while (run.start + run.length < end) {
    const uint64_t at = run.start + run.length;
    auto next = co_await ask(top, at, end - at);
    if (!next) co_return next;
    if (!continues(run, *next)) break;
    run.length += next->length;
  }
  co_return run;
}

}  // namespace blockbed
