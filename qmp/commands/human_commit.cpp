#include "qmp/commands/human_commit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/writable.h"

namespace blockbed {

namespace {

using Human = Task<Expected<void>>;

// Large enough to make the cost of a request small.
constexpr uint64_t kChunk = uint64_t{2} << 20;

Task<Result<void>> copy(Backend& source, Backend& target) {
  const uint64_t length = source.length();
  if (length > target.length()) {
    // The cause is lost on who asked for a number.
    auto grown = co_await target.truncate(length, TruncateOptions());
    if (!grown) co_return io_error(EIO);
  }
  Buffer buffer(std::min(length, kChunk));
  for (uint64_t at = 0; at < length;) {
    auto status = co_await source.node()->block_status(at, length - at);
    if (!status) co_return io_error(status.error());
    uint64_t run = std::min(status->length, length - at);
    if (status->allocated && status->zero) {
      BB_CO_TRY(co_await target.zero(at, run, RequestFlags().with_may_unmap()));
    } else if (status->allocated) {
      run = std::min(run, kChunk);
      BB_CO_TRY(co_await source.read(at, buffer.io(0, run)));
      BB_CO_TRY(co_await target.write(at, buffer.io(0, run)));
    }
    at += run;
  }
  co_return Result<void>();
}

Task<Result<void>> copy_and_empty(Backend& source, Backend& target) {
  BB_CO_TRY(co_await copy(source, target));
  BB_CO_TRY(co_await target.flush());
  auto emptied = co_await source.node()->make_empty();
  if (!emptied && emptied.error().number() != ENOTSUP) co_return io_error(emptied.error());
  co_return co_await source.flush();
}

// Both nodes are drained and writable.
Task<Result<void>> commit_drained(HumanContext& context, Graph& graph, Node& top, Node& backing) {
  Backend source(graph, "",
                 {Permission::kConsistentRead | Permission::kWriteUnchanged, Permissions::all()});
  Backend target(graph, "", {Permission::kWrite | Permission::kResize, Permissions::all()});
  source.set_disable_request_queuing(true);
  target.set_disable_request_queuing(true);
  auto inserted = source.insert(top);
  if (inserted) {
    // The layer above forbids writes to what it stands on; these do not change what it shows.
    Edge& link = *top.cow_edge();
    GraphChange change(graph);
    change.set_permissions(link, {link.permissions().needs, Permissions::all()});
    inserted = change.check();
    if (inserted) change.commit();
  }
  if (inserted) inserted = target.insert(backing);

  Result<void> done;
  if (inserted) {
    done = co_await copy_and_empty(source, target);
  } else {
    context.print(inserted.error().description + "\n");
    done = io_error(EPERM);
  }
  co_await target.release();
  co_await source.release();
  GraphChange change(graph);
  change.recheck(top);
  const Expected<void> restored = change.check();
  // It was so before, and the lock was held.
  BB_ASSERT(restored.has_value());
  change.commit();
  co_return done;
}

Task<Result<void>> commit(HumanContext& context, Graph& graph, Node& top) {
  if (top.cow_edge() == nullptr || top.cow_edge()->node() == nullptr) co_return io_error(ENOTSUP);
  Node& backing = *top.cow_edge()->node();
  // Who reads an internal snapshot through the link relies on what is there now.
  if (!top.operations().check(Operation::kCommitSource) ||
      !backing.operations().check(Operation::kCommitTarget) || top.cow_edge()->frozen()) {
    co_return io_error(EBUSY);
  }
  const NodeRef keep_top(top), keep_backing(backing);
  std::vector<Node*> both{&top, &backing};
  DrainedSection drained = co_await drain(std::move(both));
  auto opened = co_await make_writable(graph, backing);
  if (!opened) co_return io_error(EACCES);
  auto done = co_await commit_drained(context, graph, top, backing);
  co_await leave_for_reading(graph, std::move(*opened));
  co_return done;
}

// Every layer over a backing file that is the top of what somebody uses, each once.
std::vector<NodeRef> layers_in_use(Graph& graph) {
  std::vector<NodeRef> layers;
  for (const Backend* backend : graph.backends()) {
    if (backend->node() == nullptr) continue;
    Node* node = backend->node()->skip_filters();
    if (node == nullptr || node->cow_edge() == nullptr) continue;
    const bool known =
        std::ranges::any_of(layers, [node](const NodeRef& other) { return &*other == node; });
    if (!known) layers.emplace_back(*node);
  }
  return layers;
}

Human commit_command(HumanContext& context, Graph& graph, std::string device) {
  MutexGuard guard = co_await graph.lock();
  Result<void> done;
  if (device == "all") {
    for (const NodeRef& layer : layers_in_use(graph)) {
      done = co_await commit(context, graph, *layer);
      if (!done) break;
    }
  } else {
    const Backend* backend = graph.find_backend(device);
    if (backend == nullptr) {
      context.print(fmt::format("Device '{}' not found\n", device));
      co_return Expected<void>();
    }
    if (backend->node() == nullptr) {
      context.print(fmt::format("Device '{}' has no medium\n", device));
      co_return Expected<void>();
    }
    done = co_await commit(context, graph, *backend->node());
  }
  if (!done) {
    context.print(
        fmt::format("'commit' error for '{}': {}\n", device, strerror_text(done.error())));
  }
  co_return Expected<void>();
}

}  // namespace

void register_human_commit(HumanTable& human, Graph& graph) {
  human.add({.name = "commit",
             .arguments = {{"device", HumanKind::kBlockDevice}},
             .parameters = "device|all",
             .help = "copy what disk images hold into their backing files",
             .run = [&graph](HumanContext& context, HumanArguments arguments) -> Human {
               co_return co_await commit_command(context, graph, arguments.text("device"));
             }});
}

}  // namespace blockbed
