#include "qmp/commands/internal_snapshot_commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/drain.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/medium.h"
#include "block/runtime/env.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Expected<std::vector<InternalSnapshot>> list_of(const Node& node) {
  auto list = list_internal_snapshots(node);
  if (!list) {
    return fail(fmt::format("Failed to get a snapshot list: {}", strerror_text(list.error())));
  }
  return std::move(*list);
}

class InternalSnapshotAction final : public Action {
 public:
  InternalSnapshotAction(schema::BlockdevSnapshotInternal arguments)
      : arguments_(std::move(arguments)) {}

  Task<Expected<void>> prepare(TransactionContext& context) override {
    const std::string& device = arguments_.device;
    auto found = find_root_node(context.graph, device);
    if (!found) co_return fail(std::move(found).error());
    node_ = NodeRef(**found);
    drained_ = co_await drain(*node_);
    BB_CO_TRY(node_->operations().check(Operation::kInternalSnapshot));
    if (!node_->writable()) co_return fail(fmt::format("Device '{}' is read only", device));
    if (!can_take_internal_snapshots(*node_)) {
      co_return fail(
          fmt::format("Block format '{}' used by device '{}' does not support internal snapshots",
                      node_->driver().name(), device));
    }
    if (arguments_.name.empty()) co_return fail("Name is empty");
    auto list = list_of(*node_);
    if (!list) co_return fail(std::move(list).error());
    if (find_internal_snapshot(*list, std::nullopt, arguments_.name) != nullptr) {
      co_return fail(fmt::format("Snapshot with name '{}' already exists on device '{}'",
                                 arguments_.name, device));
    }
    const WallTime now = context.graph.env().wall_time();
    made_.name = arguments_.name;
    made_.seconds = now.seconds;
    made_.nanoseconds = now.microseconds * 1000;
    made_.vm_clock_ns = static_cast<uint64_t>(context.graph.guest_clock().now());
    if (auto done = co_await internal_snapshots_of(*node_)->create(made_); !done) {
      co_return fail(fmt::format("Failed to create snapshot '{}' on device '{}': {}",
                                 arguments_.name, device, strerror_text(done.error())));
    }
    co_return Expected<void>();
  }

  Task<void> abort(TransactionContext& context) override {
    auto removed = co_await internal_snapshots_of(*node_)->remove(made_.id);
    if (!removed) {
      context.warn(fmt::format(
          "Failed to delete snapshot with id '{}' and name '{}' on device '{}' in abort: {}\n",
          made_.id, made_.name, arguments_.device, removed.error().description));
    }
  }

  void release() override {
    drained_.end();
    node_ = NodeRef();
  }

 private:
  schema::BlockdevSnapshotInternal arguments_;
  NodeRef node_;
  DrainedSection drained_;
  InternalSnapshot made_;
};

Task<Expected<schema::SnapshotInfo>> delete_snapshot(
    Graph& graph, c::BlockdevSnapshotDeleteInternalSync::Args arguments) {
  MutexGuard lock = co_await graph.lock();
  auto found = find_root_node(graph, arguments.device);
  if (!found) co_return fail(std::move(found).error());
  const NodeRef node(**found);
  if (!arguments.id && !arguments.name) co_return fail("Name or id must be provided");
  BB_CO_TRY(node->operations().check(Operation::kInternalSnapshotDelete));
  auto list = list_of(*node);
  if (!list) co_return fail(std::move(list).error());
  const InternalSnapshot* snapshot = find_internal_snapshot(*list, arguments.id, arguments.name);
  if (snapshot == nullptr) {
    co_return fail(fmt::format("Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                               arguments.id.value_or("null"), arguments.name.value_or("null"),
                               arguments.device));
  }
  BB_CO_TRY(co_await internal_snapshots_of(*node)->remove(snapshot->id));
  co_return snapshot_info(*snapshot);
}

}  // namespace

std::unique_ptr<Action> internal_snapshot_action(schema::BlockdevSnapshotInternal arguments) {
  return std::make_unique<InternalSnapshotAction>(std::move(arguments));
}

void register_internal_snapshot_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockdevSnapshotInternalSync>(
      [&graph, &jobs](CommandContext& command, c::BlockdevSnapshotInternalSync::Args arguments) {
        return run_action(command, graph, jobs, internal_snapshot_action(std::move(arguments)));
      });
  commands.implement<c::BlockdevSnapshotDeleteInternalSync>(
      [&graph](CommandContext&, c::BlockdevSnapshotDeleteInternalSync::Args arguments) {
        return delete_snapshot(graph, std::move(arguments));
      });
}

}  // namespace blockbed
