// transaction: several actions that all happen, at one instant, or none of them.
//
// Problem: backups and snapshots of several disks must show the same instant, and a failure of the
// last one must undo the first.
//
// Contract
//  - Actions are prepared in order. What an action prepares is in force at once (a node is found by
//    the next action), but its disks stay drained until the end: the instant of all of them is the
//    same, between the last prepare and the first request after it.
//  - The graph's lock is held from the first prepare to the last release: nobody else sees or
//    changes what is half done.
//  - When all are prepared each is committed, in order; when one fails, those before it are
//    aborted, last first. In both cases each prepared action is then released, in order (its
//    drained section ends).
//  - A command that does one action is a transaction of one.
// Errors: of the action that failed, in QEMU 7.2's words. Threading: engine thread.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

// What actions work with.
struct TransactionContext {
  Graph& graph;
  JobRegistry& jobs;
  // Where `Formatting ...` and warnings go.
  std::function<void(std::string_view)> print;
  std::function<void(std::string_view)> warn;
  // Set when the jobs of the transaction are to end together.
  std::shared_ptr<JobTransaction> group;
  // Jobs that began; the reply waits until they have settled.
  std::vector<std::shared_ptr<Job>> started;
};

class Action {
 public:
  virtual ~Action() = default;
  // A failed prepare has undone what it did, but may keep what release() gives back.
  virtual Task<Expected<void>> prepare(TransactionContext& context) = 0;
  virtual Task<void> commit(TransactionContext&) { co_return; }
  virtual Task<void> abort(TransactionContext&) { co_return; }
  virtual void release() {}
  // No request may come between its prepare and the end of the transaction, whatever the others
  // drain: marks of writes would get lost.
  virtual bool needs_rest() const { return false; }
};

using Actions = std::vector<std::unique_ptr<Action>>;

Task<Expected<void>> run_transaction(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                     Actions actions, bool grouped = false);
// The same for one action.
Task<Expected<void>> run_action(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                std::unique_ptr<Action> action);
// For one that takes no notice of requests: nothing stands still meanwhile.
Task<Expected<void>> run_undrained(CommandContext& command, Graph& graph, JobRegistry& jobs,
                                   std::unique_ptr<Action> action);

// The `transaction` command. Graph and registry outlive the table.
void register_transaction_command(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
