#include "block/jobs/one_step.h"

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

Task<Expected<void>> OneStepJob::start(JobRegistry& registry, std::string_view type, std::string id,
                                       Step step) {
  BB_CO_TRY(registry.check_id(id));
  JobParameters parameters;
  parameters.id = std::move(id);
  parameters.auto_dismiss = false;
  auto job = std::make_shared<OneStepJob>(registry, type, std::move(parameters), std::move(step));
  registry.add(job);
  registry.start(*job);
  co_await registry.settle(job);
  co_return Expected<void>();
}

OneStepJob::OneStepJob(JobRegistry& registry, std::string_view type, JobParameters parameters,
                       Step step)
    : Job(registry, std::move(parameters)),
      type_(type),
      step_(std::move(step)),
      begun_(env().executor()) {}

Task<JobResult> OneStepJob::run() {
  counted().remaining = 1;
  Expected<void> done = co_await step_(*this);
  begin();
  counted() = Progress{.done = 1, .remaining = 0};
  if (!done) co_return job_failure(std::move(done).error());
  co_return JobResult();
}

Task<void> OneStepJob::begun() {
  begin();
  return let_reply_go_first();
}

Task<void> OneStepJob::first_step() { co_await begun_.wait(); }

Task<void> OneStepJob::clean() {
  step_ = nullptr;
  co_await registry().graph().close_unreferenced();
}

}  // namespace blockbed
