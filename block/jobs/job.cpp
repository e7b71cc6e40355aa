#include "block/jobs/job.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

std::unexpected<JobFailure> job_failure(Errno error) {
  return std::unexpected(JobFailure(error.number(), strerror_text(error)));
}

std::unexpected<JobFailure> job_failure(Error error) {
  return std::unexpected(JobFailure(EINVAL, std::move(error.description)));
}

Job::Job(JobRegistry& registry, JobParameters parameters)
    : registry_(registry),
      parameters_(std::move(parameters)),
      wake_(registry.graph().executor()),
      run_end_(registry.graph().executor()),
      ended_(registry.graph().executor()) {
  if (parameters_.transaction == nullptr) {
    parameters_.transaction = std::make_shared<JobTransaction>();
  }
  std::vector<Job*>& members = parameters_.transaction->jobs_;
  members.insert(members.begin(), this);
}

Job::~Job() {
  BB_ASSERT(!busy());
  std::erase(parameters_.transaction->jobs_, this);
}

Env& Job::env() const { return registry_.graph().env(); }
EventSink& Job::events() const { return registry_.graph().events(); }

void Job::set_status(JobStatus status) {
  if (status_ == status) return;
  BB_ASSERT(job_transition_allowed(status_, status));
  status_ = status;
  events().emit("JOB_STATUS_CHANGE",
                json::Object{{"id", id()}, {"status", job_status_name(status)}});
}

// --- verbs

Expected<void> Job::check_verb(JobVerb verb) const {
  if (job_verb_allowed(status_, verb)) return {};
  return fail(fmt::format("Job '{}' in state '{}' cannot accept command verb '{}'", id(),
                          job_status_name(status_), job_verb_name(verb)));
}

Expected<void> Job::user_pause() {
  BB_TRY(check_verb(JobVerb::kPause));
  if (user_paused_) return fail("Job is already paused");
  // One that is on its way out does not stop any more: its transaction waits for it.
  if (!cancelled_) pause_for_user();
  return {};
}

Expected<void> Job::user_resume() {
  if (!user_paused_ || pause_count_ == 0) return fail("Can't resume a job that was not paused");
  BB_TRY(check_verb(JobVerb::kResume));
  user_resumed();
  user_paused_ = false;
  resume();
  return {};
}

Task<Expected<void>> Job::user_complete() {
  const bool early = completes_while_running() && status_ == JobStatus::kRunning;
  if (!early) BB_CO_TRY(check_verb(JobVerb::kComplete));
  if (cancelled_) {
    co_return fail(fmt::format("The active block job '{}' cannot be completed", id()));
  }
  co_return co_await complete();
}

void Job::pause_for_user() {
  if (user_paused_) return;
  user_paused_ = true;
  pause();
}

void Job::pause() {
  ++pause_count_;
  if (resting_) {
    show_paused();
  } else if (busy()) {
    kick();
  }
}

void Job::resume() {
  BB_ASSERT(pause_count_ > 0);
  if (--pause_count_ > 0) return;
  if (status_ == JobStatus::kPaused) set_status(JobStatus::kRunning);
  if (status_ == JobStatus::kStandby) set_status(JobStatus::kReady);
  kick();
}

void Job::kick() {
  if (timer_ != nullptr) timer_->cancel();
  wake_.wake_all();
  if (busy()) interrupted();
}

void Job::request_cancel(bool force) {
  if (user_paused_) {
    user_resumed();
    user_paused_ = false;
    resume();
  }
  if (cancel_aborts(force)) cancelled_ = true;
  kick();
}

// --- pause points

void Job::show_paused() {
  if (status_ == JobStatus::kRunning) set_status(JobStatus::kPaused);
  if (status_ == JobStatus::kReady) set_status(JobStatus::kStandby);
}

void Job::begin_rest() {
  resting_ = true;
  if (pause_count_ > 0) show_paused();
  came_to_rest();
}

// Inside a drained section even a cancelled job stands still: what it may still do moves data.
Task<void> Job::end_rest() {
  while (pause_count_ > 0) co_await wake_.wait();
  resting_ = false;
}

Task<void> Job::pause_point() {
  if (pause_count_ == 0) co_return;
  begin_rest();
  co_await end_rest();
}

Task<void> Job::sleep(int64_t nanoseconds) {
  if (timer_ == nullptr) timer_ = env().make_timer();
  begin_rest();
  if (pause_count_ == 0) co_await timer_->wait_until(env().now() + nanoseconds);
  co_await end_rest();
}

Task<void> Job::wait() {
  begin_rest();
  if (pause_count_ == 0) co_await wake_.wait();
  co_await end_rest();
}

Task<void> Job::let_reply_go_first() {
  for (int i = 0; i < JobRegistry::kSettleTurns + 2; ++i) co_await env().executor().yield();
}

void Job::become_ready() {
  set_status(JobStatus::kReady);
  tell_ready();
}

// --- what a kind may leave out

Task<void> Job::first_step() { co_return; }
Task<JobResult> Job::prepare() { co_return JobResult(); }
Task<void> Job::commit() { co_return; }
Task<void> Job::abort() { co_return; }
Task<void> Job::clean() { co_return; }
Task<void> Job::leave() { co_return; }
Task<Expected<void>> Job::complete() {
  co_return fail(fmt::format("The active block job '{}' cannot be completed", id()));
}

void Job::settle_result() {
  if (!failure_ && cancelled_) failure_.emplace(job_failure(Errno(ECANCELED)).error());
  if (failure_) set_status(JobStatus::kAborting);
}

}  // namespace blockbed
