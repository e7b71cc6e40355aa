// JobRegistry: all jobs of a server, and how they end.
//
// Problem: ends are where jobs meet: jobs of one transaction wait for each other, the graph changes
// while commands want to change it too, and clients rely on the order of the events.
//
// Contract
//  - A job is added (created), started (running) and, after its run, ended by the registry under
//    the graph lock: waiting, pending, prepare, commit or abort, clean, its own event, concluded,
//    null. With auto_finalize off it stops at pending, with auto_dismiss off at concluded.
//  - Methods that say so are called with the graph lock held; all other coroutines take it
//    themselves when they need it, so their caller must not hold it.
//  - settle() is called by commands before they answer: what a job can do without waiting for I/O
//    or time is then done, so its events come before the reply, as QEMU has it.
// Source of the rule: order of events and texts of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/jobs/job.h"
#include "block/runtime/gate.h"

namespace blockbed {

class Graph;

class JobRegistry {
 public:
  // Turns of the executor that a command gives a job before it answers. A job that is kicked needs
  // one to wake, and one for each task of its own that has to notice.
  static constexpr int kSettleTurns = 8;

  explicit JobRegistry(Graph& graph);
  ~JobRegistry();

  Graph& graph() const { return graph_; }

  // "Invalid job ID 'x'", "Job ID 'x' already in use".
  Expected<void> check_id(std::string_view id) const;
  // The job is created; its id was checked.
  void add(std::shared_ptr<Job> job);
  // Its construction failed after add(): it is gone.
  void give_up(Job& job);
  // running; its work begins at once.
  void start(Job& job);
  // A job that was added and not started aborts, and its transaction with it. The caller holds the
  // graph lock.
  Task<void> abandon(std::shared_ptr<Job> job);

  // Newest first. Null when there is none.
  std::vector<std::shared_ptr<Job>> jobs() const { return {jobs_.begin(), jobs_.end()}; }
  std::shared_ptr<Job> find(std::string_view id) const;

  // --- verbs that can end a job
  Task<Expected<void>> cancel(std::shared_ptr<Job> job, bool force);
  Task<Expected<void>> finalize(std::shared_ptr<Job> job);
  Task<Expected<void>> dismiss(std::shared_ptr<Job> job);

  Task<void> settle(std::shared_ptr<Job> job);
  Task<void> settle(std::vector<std::shared_ptr<Job>> jobs);

  // Cancels every job by force, waits for their ends and forgets them; then no job may be added.
  Task<void> shutdown();

 private:
  static bool settled(const Job& job);
  Task<void> run_job(std::shared_ptr<Job> job);
  // The following hold the graph lock.
  Task<void> run_ended(Job& job);
  Task<void> finalize_transaction(Job& job);
  // A job whose own end is the reason has settled its result before: it tells so before the others.
  // One that was at its end, and is cancelled now, takes its turn.
  Task<void> abort_transaction(Job& job);
  Task<void> finish(Job& job);
  void forget(Job& job);

  Graph& graph_;
  std::list<std::shared_ptr<Job>> jobs_;
  Gate gate_;
};

}  // namespace blockbed
