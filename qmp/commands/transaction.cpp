#include "qmp/commands/transaction.h"

#include <fmt/format.h>

#include <cstdio>

#include "block/graph/drain.h"
#include "qmp/commands/backup_commands.h"
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

// An action of the schema that this server does not have.
class MissingAction final : public Action {
 public:
  explicit MissingAction(std::string_view name) : name_(name) {}
  Task<Expected<void>> prepare(TransactionContext&) override {
    co_return fail(
        fmt::format("The transaction action '{}' is not implemented by Blockbed", name_));
  }

 private:
  std::string_view name_;
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

std::unique_ptr<Action> action_of(schema::TransactionAction& action, bool grouped) {
  const std::string_view kind = name(action.type);
  if (auto* backup = std::get_if<schema::DriveBackupWrapper>(&action.u)) {
    return drive_backup_action(std::move(backup->data));
  }
  if (auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.u)) {
    return blockdev_backup_action(std::move(backup->data));
  }
  if (std::holds_alternative<schema::AbortWrapper>(action.u))
    return std::make_unique<AbortAction>();
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotWrapper>(&action.u)) {
    if (grouped) return std::make_unique<IndividualAction>(kind);
    return snapshot_action(std::move(snapshot->data));
  }
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotSyncWrapper>(&action.u)) {
    if (grouped) return std::make_unique<IndividualAction>(kind);
    return snapshot_sync_action(std::move(snapshot->data));
  }
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotInternalWrapper>(&action.u)) {
    if (grouped) return std::make_unique<IndividualAction>(kind);
    return internal_snapshot_action(std::move(snapshot->data));
  }
  return std::make_unique<MissingAction>(kind);
}

Task<Expected<void>> run_all(TransactionContext& context, Actions& actions) {
  // Jobs that run stand still for a moment; clients see it, and nothing old is in flight when the
  // first disk stops.
  {
    DrainedSection all = co_await drain_all(context.graph);
  }

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

}  // namespace

Task<Expected<void>> run_transaction(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                     Actions actions, bool grouped) {
  TransactionContext context{
      .graph = graph,
      .jobs = jobs,
      .print = [&command](std::string_view text) { command.monitor().print(text); },
      .warn = [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); },
      .lock = {},
      .group = grouped ? std::make_shared<JobTransaction>() : nullptr,
      .started = {}};
  context.lock = co_await graph.lock();
  Expected<void> result = co_await run_all(context, actions);
  context.lock.unlock();
  co_await jobs.settle(std::move(context.started));
  co_return result;
}

Task<Expected<void>> run_action(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                std::unique_ptr<Action> action) {
  Actions actions;
  actions.push_back(std::move(action));
  return run_transaction(command, graph, jobs, std::move(actions));
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
