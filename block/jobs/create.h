// create: makes an image as a job (blockdev-create).
//
// Contract: the job has one step of progress and no nodes; what is made, and how it fails, is the
// caller's function. That calls begin() or begun() once it has what it works on: until then whoever
// settles the job waits, so that a creation that fails at once is told before the command's reply.
// It may take the graph lock, unlike the runs of other jobs: a create job is always alone in its
// transaction, so nobody who holds the lock waits for it. It stays until it is dismissed. Source of
// the rule: blockdev-create of QEMU 7.2. Threading: engine thread only.
#pragma once

#include <functional>

#include "block/jobs/job.h"

namespace blockbed {

class CreateJob final : public Job {
 public:
  using Make = std::function<Task<Expected<void>>(CreateJob& job)>;

  // The job is created; the caller checked the id and starts it.
  static std::shared_ptr<CreateJob> create(JobRegistry& registry, std::string id, Make make);

  CreateJob(JobRegistry& registry, JobParameters parameters, Make make);

  std::string_view type() const override { return "create"; }

  // --- for `make`
  void begin() { begun_.set(); }
  // The same, and what follows comes after the command's reply.
  Task<void> begun();

 protected:
  Task<JobResult> run() override;
  Task<void> first_step() override;

 private:
  Make make_;
  Event begun_;
};

}  // namespace blockbed
