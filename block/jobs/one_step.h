// OneStepJob: a job that does one thing, which somebody else knows how to do: making or amending an
// image, taking a snapshot of the machine.
//
// Contract: the job has one step of progress and no nodes; what is done, and how it fails, is the
// caller's function, which may hold what it needs: it is gone when the job has ended. It calls
// begin() or begun() once it has what it works on: until then whoever settles the job waits, so
// that what fails at once is told before the command's reply. It may take the graph lock, unlike
// the runs of other jobs: such a job is always alone in its transaction, so nobody who holds the
// lock waits for it. It stays until it is dismissed. Source of the rule: blockdev-create of
// QEMU 7.2. Threading: engine thread only.
#pragma once

#include <functional>

#include "block/jobs/job.h"

namespace blockbed {

class OneStepJob final : public Job {
 public:
  using Step = std::function<Task<Expected<void>>(OneStepJob& job)>;

  // What a command does: the job is made, started, and settled when this returns. `type` is a
  // constant.
  static Task<Expected<void>> start(JobRegistry& registry, std::string_view type, std::string id,
                                    Step step);

  OneStepJob(JobRegistry& registry, std::string_view type, JobParameters parameters, Step step);

  std::string_view type() const override { return type_; }

  // --- for the step
  void begin() { begun_.set(); }
  // The same, and what follows comes after the command's reply.
  Task<void> begun();

 protected:
  Task<JobResult> run() override;
  Task<void> first_step() override;
  Task<void> clean() override;

 private:
  std::string_view type_;
  Step step_;
  Event begun_;
};

}  // namespace blockbed
