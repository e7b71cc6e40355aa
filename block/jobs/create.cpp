#include "block/jobs/create.h"

#include "block/jobs/job_registry.h"

namespace blockbed {

std::shared_ptr<CreateJob> CreateJob::create(JobRegistry& registry, std::string id, Make make) {
  JobParameters parameters;
  parameters.id = std::move(id);
  parameters.auto_dismiss = false;
  auto job = std::make_shared<CreateJob>(registry, std::move(parameters), std::move(make));
  registry.add(job);
  return job;
}

CreateJob::CreateJob(JobRegistry& registry, JobParameters parameters, Make make)

    : Job(registry, std::move(parameters)), make_(std::move(make)), begun_(env().executor()) {}

Task<JobResult> CreateJob::run() {
  counted().remaining = 1;
  Expected<void> made = co_await make_(*this);
  begin();
  counted() = Progress{.done = 1, .remaining = 0};
  if (!made) co_return job_failure(std::move(made).error());
  co_return JobResult();
}

Task<void> CreateJob::begun() {
  begin();
  return let_reply_go_first();
}

Task<void> CreateJob::first_step() { co_await begun_.wait(); }

}  // namespace blockbed
