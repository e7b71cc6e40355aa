#include "qmp/commands/transaction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "block/graph/drain.h"
#include "qmp/commands/backup_commands.h"
#include "qmp/commands/bitmap_commands.h"
#include "qmp/commands/internal_snapshot_commands.h"
#include "qmp/commands/snapshot_commands.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "schema/transaction.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

class AbortAction final : public Action {
 public:
  Task<Expected<void>> prepare(TransactionContext&) override {
    co_return fail("Transaction aborted using Abort action");
  }
};

// One that cannot wait for others.
class IndividualAction final : public Action {
 public:
  explicit IndividualAction(std::string_view name) : name_(name) {}
  Task<Expected<void>> prepare(TransactionContext&) override {
    co_return fail(fmt::format(
        "Action '{}' does not support Transaction property completion-mode = grouped", name_));
  }

 private:
  std::string_view name_;
};

std::unique_ptr<Action> individual_action(schema::TransactionAction& action) {
  using Type = schema::TransactionActionKind;
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotWrapper>(&action.u)) {
    return snapshot_action(std::move(snapshot->data));
  }
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotSyncWrapper>(&action.u)) {
    return snapshot_sync_action(std::move(snapshot->data));
  }
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotInternalWrapper>(&action.u)) {
    return internal_snapshot_action(std::move(snapshot->data));
  }
  if (auto* bitmap = std::get_if<schema::BlockDirtyBitmapAddWrapper>(&action.u)) {
    return bitmap_add_action(std::move(bitmap->data));
  }
  if (auto* bitmap = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.u)) {
    return bitmap_merge_action(std::move(bitmap->data));
  }
  schema::BlockDirtyBitmap& bitmap = std::get<schema::BlockDirtyBitmapWrapper>(action.u).data;
  switch (action.type) {
    case Type::kBlockDirtyBitmapRemove:
      return bitmap_remove_action(std::move(bitmap));
    case Type::kBlockDirtyBitmapClear:
      return bitmap_clear_action(std::move(bitmap));
    default:
      return bitmap_enable_action(std::move(bitmap), action.type == Type::kBlockDirtyBitmapEnable);
  }
}

std::unique_ptr<Action> action_of(schema::TransactionAction& action, bool grouped) {
  if (auto* backup = std::get_if<schema::DriveBackupWrapper>(&action.u)) {
    return drive_backup_action(std::move(backup->data));
  }
  if (auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.u)) {
    return blockdev_backup_action(std::move(backup->data));
  }
  if (std::holds_alternative<schema::AbortWrapper>(action.u))
    return std::make_unique<AbortAction>();
  if (grouped) return std::make_unique<IndividualAction>(name(action.type));
  return individual_action(action);
}

Task<Expected<void>> run_all(TransactionContext& context, Actions& actions) {
  Expected<void> result;
  std::size_t prepared = 0;
  std::size_t touched = 0;
  for (; prepared < actions.size(); ++prepared) {
    ++touched;
    result = co_await actions[prepared]->prepare(context);
    if (!result) break;
  }
  if (result) {
    for (const auto& action : actions) co_await action->commit(context);
  } else {
    for (std::size_t i = prepared; i-- > 0;) co_await actions[i]->abort(context);
  }
  for (std::size_t i = 0; i < touched; ++i) actions[i]->release();
  co_await context.graph.close_unreferenced();
  co_return result;
}

Task<Expected<void>> run(CommandContext& command, Graph& graph, JobRegistry& jobs, Actions actions,
                         bool grouped, bool drained) {
  TransactionContext context{
      .graph = graph,
      .jobs = jobs,
      .print = [&command](std::string_view text) { command.monitor().print(text); },
      .warn = [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); },
      .group = grouped ? std::make_shared<JobTransaction>() : nullptr,
      .started = {}};
  MutexGuard lock = co_await graph.lock();
  DrainedSection all;
  if (drained) {
    // Jobs that run stand still for a moment; clients see it, and nothing old is in flight when the
    // first disk stops.
    all = co_await drain_all(graph);
    if (std::ranges::none_of(actions, [](const auto& a) { return a->needs_rest(); })) all.end();
  }
  Expected<void> result = co_await run_all(context, actions);
  all.end();
  lock.unlock();
  co_await jobs.settle(std::move(context.started));
  co_return result;
}

Actions alone(std::unique_ptr<Action> action) {
  Actions actions;
  actions.push_back(std::move(action));
  return actions;
}

}  // namespace

Task<Expected<void>> run_transaction(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                     Actions actions, bool grouped) {
  return run(command, graph, jobs, std::move(actions), grouped, true);
}

Task<Expected<void>> run_action(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                std::unique_ptr<Action> action) {
  return run(command, graph, jobs, alone(std::move(action)), false, true);
}

Task<Expected<void>> run_undrained(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                   std::unique_ptr<Action> action) {
  return run(command, graph, jobs, alone(std::move(action)), false, false);
}

void register_transaction_command(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::Transaction>(
      [&graph, &jobs](CommandContext& command, c::Transaction::Args arguments) {
        const bool grouped = arguments.properties && arguments.properties->completion_mode ==
                                                         schema::ActionCompletionMode::kGrouped;
        Actions actions;
        for (schema::TransactionAction& action : arguments.actions) {
          actions.push_back(action_of(action, grouped));
        }
        return run_transaction(command, graph, jobs, std::move(actions), grouped);
      });
}

}  // namespace blockbed
