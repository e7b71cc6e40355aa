// Copy on read: a node keeps what it had to read from the layers below it.
//
// While it does, nobody else touches the clusters in question: a guest's write either came before,
// and then there is nothing to keep, or waits. So what is written is what is there, also where a
// cluster is kept in part already.
#include <algorithm>

#include "block/graph/chain.h"
#include "block/graph/node.h"

namespace blockbed {

namespace {

// Copied at once at most, unless a cluster is larger.
constexpr uint64_t kCopyBytes = uint64_t{1} << 20;

}  // namespace

// Whole clusters are kept: what is less would have to be filled up from below again.
uint64_t Node::keeping_unit() const {
  return std::max<uint64_t>(driver_->info().cluster_size, limits_.request_alignment);
}

Task<Result<void>> Node::read_keeping(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t unit = keeping_unit();
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t end = std::min(offset + buffers.size(), length_);
  const uint64_t end_of_image = (length_ + alignment - 1) / alignment * alignment;
  Buffer copy;
  for (uint64_t at = offset; at < end;) {
    auto here = co_await chain_allocated(*this, this, /*include_base=*/true, at, end - at);
    if (!here) co_return io_error(here.error());
    if (here->length == 0) break;
    if (here->allocated) {
      if (!flags.prefetch) {
        BB_CO_TRY(co_await read_widened(at, buffers.slice(at - offset, here->length), {}));
      }
      at += here->length;
      continue;
    }
    const uint64_t begin = at - at % unit;
    const uint64_t last = at + here->length + unit - 1;
    const uint64_t most = begin + std::max(unit, kCopyBytes - kCopyBytes % unit);
    const uint64_t stop = std::min({last - last % unit, most, end_of_image});
    if (copy.size() < stop - begin) copy = Buffer(stop - begin);
    const IoVector bytes = copy.io(0, stop - begin);
    BB_CO_TRY(co_await read_aligned(begin, bytes, {}));
    BB_CO_TRY(co_await keep(begin, bytes));
    const uint64_t next = std::min(stop, end);
    if (!flags.prefetch)
      buffers.slice(at - offset, next - at).copy_from(copy.data() + (at - begin));
    at = next;
  }
  // A guest that reads beyond the end sees zeroes.
  if (const uint64_t done = std::max(end, offset) - offset; done < buffers.size()) {
    buffers.slice(done, buffers.size() - done).fill(0);
  }
  co_return Result<void>();
}

Task<Result<void>> Node::keep(uint64_t offset, IoVector bytes) {
  co_await DebugPoint(debug_listener_, DebugEvent::kCorWrite);
  RequestFlags flags;
  flags.write_unchanged = true;
  // Zeroes take no space, if the format knows zeroes.
  if (bytes.all_zero()) co_return co_await zero_aligned(offset, bytes.size(), flags);
  co_return co_await write_aligned(offset, bytes, flags);
}

}  // namespace blockbed
