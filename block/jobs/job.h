// Job: a long-running operation that clients watch and steer.
//
// Problem: whatever a job does, clients see the same life: created, running, paused and resumed,
// perhaps ready, waiting for others of its transaction, pending, concluded, dismissed. The kinds
// (backup, create, ...) only say what the work is.
//
// Contract for kinds
//  - run() does the work, as a task that the registry owns. It calls pause_point() wherever it may
//    be stopped; sleep() and wait() are such points too. Between those points it counts as busy,
//    and a drained section waits for it, so a kind that waits for I/O for long overrides
//    interrupted() and comes to a pause point soon after it was called.
//  - run() never takes the graph lock and never drains. What needs that happens in prepare(),
//    commit(), abort() and clean(), which are called with the graph lock held, after all runs of
//    the transaction have ended: prepare() may still fail, then exactly one of commit() and
//    abort(), then clean(), and leave() when the job is dismissed.
//  - cancelled() is to be looked at after every pause point; run() then returns as soon as nothing
//    is in flight.
// Contract for the rest: verbs check the state table (job_state.h) and answer with QEMU's texts;
// those that can end a job are in JobRegistry (job_registry.h). Source of the rule: states, events
// and texts of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/filters/progress.h"
#include "block/jobs/job_state.h"
#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/result.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Job;
class JobRegistry;

// Why a job failed: an errno, and what the client is told.
struct JobFailure {
  int error = 0;
  std::string text;

  JobFailure(int number, std::string description) : error(number), text(std::move(description)) {}
};
using JobResult = std::expected<void, JobFailure>;

std::unexpected<JobFailure> job_failure(Errno error);
// For operations that only have a text; the errno is one that no policy looks at.
std::unexpected<JobFailure> job_failure(Error error);

// Jobs that end together: all conclude, or, when one fails or is cancelled, all abort.
class JobTransaction {
 public:
  JobTransaction() = default;
  JobTransaction(const JobTransaction&) = delete;
  JobTransaction& operator=(const JobTransaction&) = delete;

 private:
  friend class Job;
  friend class JobRegistry;

  // Newest first: the order in which their ends are told.
  std::vector<Job*> jobs_;
  bool aborting_ = false;
};

struct JobParameters {
  std::string id;
  bool auto_finalize = true;
  bool auto_dismiss = true;
  // Null: the job is alone in its transaction.
  std::shared_ptr<JobTransaction> transaction;

  JobParameters() = default;
};

class Job : public std::enable_shared_from_this<Job> {
 public:
  Job(JobRegistry& registry, JobParameters parameters);
  virtual ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // --- facts
  JobRegistry& registry() const { return registry_; }
  const std::string& id() const { return parameters_.id; }
  // "backup", as in JobInfo.
  virtual std::string_view type() const = 0;
  virtual bool is_block_job() const { return false; }
  JobStatus status() const { return status_; }
  bool auto_finalize() const { return parameters_.auto_finalize; }
  bool auto_dismiss() const { return parameters_.auto_dismiss; }
  const Progress& progress() const { return progress_; }
  // Somebody, client or drained section, wants it to stand still.
  bool pause_requested() const { return pause_count_ > 0; }
  bool user_paused() const { return user_paused_; }
  // The job is to end without its result.
  bool cancelled() const { return cancelled_; }
  const std::optional<JobFailure>& failure() const { return failure_; }
  bool started() const { return started_; }
  // run() goes on and is at no pause point.
  bool busy() const { return started_ && !run_ended_ && !resting_; }

  // --- verbs that cannot end a job
  Expected<void> check_verb(JobVerb verb) const;
  Expected<void> user_pause();
  Expected<void> user_resume();
  // Takes the graph lock when the kind needs it.
  Task<Expected<void>> user_complete();

  // Calls nest; the job shows as paused from its next pause point on (at once, when it rests).
  void pause();
  void resume();

 protected:
  // --- what a kind is
  virtual Task<JobResult> run() = 0;
  virtual Task<JobResult> prepare();
  virtual Task<void> commit();
  virtual Task<void> abort();
  virtual Task<void> clean();
  // It is about to be forgotten: what clients saw it hold until then is let go.
  virtual Task<void> leave();
  // `complete` was accepted. The caller does not hold the graph lock.
  virtual Task<Expected<void>> complete();
  // Kinds that can be completed without having become ready.
  virtual bool completes_while_running() const { return false; }
  // A cancel came; false: the job goes on and ends in its own way (a ready mirror that was not
  // forced).
  virtual bool cancel_aborts(bool force) { return (void)force, true; }
  // The client resumed, or cancels, a job that it, or an error policy, had paused.
  virtual void user_resumed() {}
  // run() should come to a pause point, or look at cancelled(), soon.
  virtual void interrupted() {}
  // What a client expects to have happened when the command that started the job is answered,
  // although it takes a worker here.
  virtual Task<void> first_step();
  // busy() may have become false.
  virtual void came_to_rest() {}
  // Events of a kind.
  virtual void tell_ready() {}
  virtual void tell_pending() {}
  virtual void tell_finished() {}

  // --- for run()
  Task<void> pause_point();
  // A pause point that lasts; both end early when the job is kicked.
  Task<void> sleep(int64_t nanoseconds);
  Task<void> wait();
  // Lets the command that started the job, and settles it, answer first: QEMU's I/O always leaves
  // the thread, ours need not.
  Task<void> let_reply_go_first();
  // Running becomes ready.
  void become_ready();
  void kick();

  Env& env() const;
  EventSink& events() const;
  Progress& counted() { return progress_; }
  // An error policy stops the job until the client resumes it.
  void pause_for_user();

 private:
  friend class JobRegistry;

  void set_status(JobStatus status);
  void show_paused();
  void begin_rest();
  Task<void> end_rest();
  // A run that ended well and was cancelled meanwhile has failed. Moves a failed job to aborting.
  void settle_result();
  void request_cancel(bool force);

  JobRegistry& registry_;
  JobParameters parameters_;
  JobStatus status_ = JobStatus::kUndefined;
  Progress progress_;
  int pause_count_ = 0;
  bool user_paused_ = false;
  bool cancelled_ = false;
  bool started_ = false;
  bool resting_ = false;
  bool run_ended_ = false;
  // commit() or abort() and clean() are done.
  bool finished_ = false;
  std::optional<JobFailure> failure_;
  WaitQueue wake_;
  std::unique_ptr<Timer> timer_;
  // Set when run() has ended; when nothing of the end is under way any more.
  Event run_end_;
  bool ending_ = false;
  WaitQueue ended_;
};

}  // namespace blockbed
