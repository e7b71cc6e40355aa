#include "block/jobs/job_registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "block/graph/drain.h"
#include "block/graph/graph.h"

namespace blockbed {

namespace {

bool ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool well_formed_id(std::string_view id) {
  if (id.empty() || !ascii_letter(id.front())) return false;
  return std::ranges::all_of(id, [](char c) {
    return ascii_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

JobRegistry::JobRegistry(Graph& graph) : graph_(graph), gate_(graph.executor()) {}
JobRegistry::~JobRegistry() { BB_ASSERT(jobs_.empty()); }

Expected<void> JobRegistry::check_id(std::string_view id) const {
  if (!well_formed_id(id)) return fail(fmt::format("Invalid job ID '{}'", id));
  if (find(id) != nullptr) return fail(fmt::format("Job ID '{}' already in use", id));
  return {};
}

std::shared_ptr<Job> JobRegistry::find(std::string_view id) const {
  for (const std::shared_ptr<Job>& job : jobs_) {
    if (job->id() == id) return job;
  }
  return nullptr;
}

void JobRegistry::add(std::shared_ptr<Job> job) {
  BB_ASSERT(!gate_.closed());
  jobs_.push_front(job);
  job->set_status(JobStatus::kCreated);
}

void JobRegistry::give_up(Job& job) {
  BB_ASSERT(job.status() == JobStatus::kCreated);
  forget(job);
}

void JobRegistry::forget(Job& job) {
  const std::shared_ptr<Job> keep = job.shared_from_this();
  job.set_status(JobStatus::kNull);
  std::erase(keep->parameters_.transaction->jobs_, &job);
  std::erase(jobs_, keep);
  job.ended_.wake_all();
}

void JobRegistry::start(Job& job) {
  BB_ASSERT(!job.started_);
  job.started_ = true;
  job.set_status(JobStatus::kRunning);
  gate_.spawn(run_job(job.shared_from_this()));
}

Task<void> JobRegistry::run_job(std::shared_ptr<Job> job) {
  co_await job->pause_point();
  JobResult result = co_await job->run();
  // What a user holds stays, also when it has nothing left to do.
  if (result && job->user_paused()) co_await job->pause_point();
  job->run_ended_ = true;
  if (!result) job->failure_ = std::move(result).error();
  job->came_to_rest();
  job->run_end_.set();

  job->ending_ = true;
  {
    MutexGuard lock = co_await graph_.lock();
    // While this task waited for the lock, another of the transaction may have ended both.
    if (!job->finished_) co_await run_ended(*job);
  }
  job->ending_ = false;
  job->ended_.wake_all();
}

Task<void> JobRegistry::run_ended(Job& job) {
  if (job.failure_ || job.cancelled_) {
    job.settle_result();
    co_await abort_transaction(job);
    co_return;
  }
  // The end of a run inside a drained section: the pause was never shown, or is over.
  job.set_status(JobStatus::kWaiting);
  const std::vector<Job*> all = job.parameters_.transaction->jobs_;
  const bool complete = std::ranges::all_of(
      all, [](const Job* member) { return member->status() == JobStatus::kWaiting; });
  if (!complete) co_return;
  bool finalize = true;
  for (Job* member : all) {
    member->set_status(JobStatus::kPending);
    if (!member->auto_finalize()) {
      finalize = false;
      member->tell_pending();
    }
  }
  if (finalize) co_await finalize_transaction(job);
}

Task<void> JobRegistry::finalize_transaction(Job& job) {
  const std::vector<Job*> all = job.parameters_.transaction->jobs_;
  for (Job* member : all) {
    JobResult prepared = co_await member->prepare();
    if (!prepared) {
      member->failure_ = std::move(prepared).error();
      member->settle_result();
      co_await abort_transaction(*member);
      co_return;
    }
  }
  for (Job* member : all) co_await finish(*member);
}

Task<void> JobRegistry::abort_transaction(Job& job) {
  const std::shared_ptr<JobTransaction> transaction = job.parameters_.transaction;
  // Once begun, the abort takes all members with it under one hold of the graph lock.
  BB_ASSERT(!transaction->aborting_);
  transaction->aborting_ = true;
  std::vector<std::shared_ptr<Job>> all;
  for (Job* member : transaction->jobs_) all.push_back(member->shared_from_this());
  for (const std::shared_ptr<Job>& member : all) {
    if (member.get() != &job) member->request_cancel(true);
  }
  for (const std::shared_ptr<Job>& member : all) {
    if (member->started_) co_await member->run_end_.wait();
    co_await finish(*member);
  }
}

Task<void> JobRegistry::finish(Job& job) {
  const std::shared_ptr<Job> keep = job.shared_from_this();
  job.settle_result();
  if (job.failure_) {
    co_await job.abort();
  } else {
    co_await job.commit();
  }
  co_await job.clean();
  const bool dismissed = job.auto_dismiss() || !job.started_;
  if (dismissed) co_await job.leave();
  job.finished_ = true;
  if (job.started_) job.tell_finished();
  std::erase(job.parameters_.transaction->jobs_, &job);
  job.set_status(JobStatus::kConcluded);
  if (dismissed) forget(job);
}

Task<void> JobRegistry::abandon(std::shared_ptr<Job> job) {
  BB_ASSERT(!job->started_);
  // An earlier member of the transaction may have taken this one with it.
  if (job->finished_) co_return;
  job->cancelled_ = true;
  job->settle_result();
  co_await abort_transaction(*job);
}

// --- verbs

Task<Expected<void>> JobRegistry::cancel(std::shared_ptr<Job> job, bool force) {
  BB_CO_TRY(job->check_verb(JobVerb::kCancel));
  if (job->status() == JobStatus::kWaiting || job->status() == JobStatus::kPending) {
    MutexGuard lock = co_await graph_.lock();
    // The transaction may have been ending: it ends as it began, for all of its jobs.
    BB_CO_TRY(job->check_verb(JobVerb::kCancel));
    job->request_cancel(force);
    if (job->cancelled_) co_await abort_transaction(*job);
    co_return Expected<void>();
  }
  job->request_cancel(force);
  co_await settle(std::move(job));
  co_return Expected<void>();
}

Task<Expected<void>> JobRegistry::finalize(std::shared_ptr<Job> job) {
  BB_CO_TRY(job->check_verb(JobVerb::kFinalize));
  MutexGuard lock = co_await graph_.lock();
  // Another client may have been faster.
  BB_CO_TRY(job->check_verb(JobVerb::kFinalize));
  co_await finalize_transaction(*job);
  co_return Expected<void>();
}

Task<Expected<void>> JobRegistry::dismiss(std::shared_ptr<Job> job) {
  BB_CO_TRY(job->check_verb(JobVerb::kDismiss));
  MutexGuard lock = co_await graph_.lock();
  // Another client may have been faster.
  BB_CO_TRY(job->check_verb(JobVerb::kDismiss));
  co_await job->leave();
  forget(*job);
  co_return Expected<void>();
}

bool JobRegistry::settled(const Job& job) {
  return !job.busy() && (job.run_ended_ || !job.started_ || job.pause_count_ > 0);
}

Task<void> JobRegistry::settle(std::shared_ptr<Job> job) {
  std::vector<std::shared_ptr<Job>> one{std::move(job)};
  return settle(std::move(one));
}

Task<void> JobRegistry::settle(std::vector<std::shared_ptr<Job>> jobs) {
  for (const std::shared_ptr<Job>& job : jobs) {
    if (job->busy()) co_await job->first_step();
  }
  for (int turn = 0; turn < kSettleTurns; ++turn) {
    for (const std::shared_ptr<Job>& job : jobs) {
      while (job->ending_) co_await job->ended_.wait();
    }
    if (std::ranges::all_of(jobs, [](const auto& job) { return settled(*job); })) co_return;
    co_await graph_.executor().yield();
  }
}

Task<void> JobRegistry::shutdown() {
  if (!jobs_.empty()) {
    MutexGuard lock = co_await graph_.lock();
    DrainedSection drained = co_await drain_all(graph_);
  }
  while (!jobs_.empty()) {
    const std::shared_ptr<Job> job = jobs_.front();
    if (job->status() == JobStatus::kConcluded) {
      MutexGuard lock = co_await graph_.lock();
      co_await job->leave();
      forget(*job);
      continue;
    }
    const Expected<void> cancelled = co_await cancel(job, true);
    (void)cancelled;  // one that is aborting already takes no verb, and ends by itself
    if (job->started_) co_await job->run_end_.wait();
    while (job->ending_) co_await job->ended_.wait();
    if (job->status() != JobStatus::kConcluded && job->status() != JobStatus::kNull) {
      // Its end is in the hands of whoever holds the graph lock.
      MutexGuard lock = co_await graph_.lock();
    }
  }
  co_await gate_.close();
}

}  // namespace blockbed
