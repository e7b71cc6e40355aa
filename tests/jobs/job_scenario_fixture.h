// JobScenario: one job in a simulated world, from its beginning to its end.
//
// Problem: whatever a job does, around it the same goes on: a guest uses the disk; a client pauses
// and resumes, drains and reopens nodes, cancels; requests fail; the power goes off. And whatever
// went on, all comes to rest: the job can be brought to an end, and every node be closed.
//
// Contract: a kind of job says in the virtual functions what is its own. go() makes the disks, runs
// the job to its end, judges while all is open, takes everything down, and judges what is stored.
// Threading: one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/jobs/block_job.h"
#include "tests/jobs/reopenings_fixture.h"
#include "tests/jobs/sim_guest_fixture.h"
#include "tests/support/coverage.h"

namespace blockbed::test {

// What a seed does besides the job itself.
struct JobPlan {
  uint64_t size = 0;
  bool faults = false;
  bool crash = false;
  bool cancels = false;
  int writers = 1;
};

class JobScenario {
 public:
  // What the seeds of every kind must meet.
  static constexpr std::string_view kMarks[] = {
      "paused",
      "resumed",
      "resumed after an error",
      "drained",
      "cancelled",
      "failed",
      "ended well",
      "ended well in spite of faults",
      "power cut while the job ran",
      "power cut after the job",
      "power cut when all was closed",
  };
  // A world, a plan and a scenario for each seed. `coverage` demands what is particular to the kind
  // of job; what all kinds must meet is added.
  template <class Plan, class Scenario>
  static void run_seeds(Coverage& coverage, uint64_t seeds) {
    demand_marks(coverage);
    for_each_seed_covering(coverage, seeds, [&](uint64_t seed) {
      World world(seed);
      const Plan plan(world.env.chance());
      Scenario(world, plan, coverage).go();
    });
  }

  JobScenario(World& world, const JobPlan& plan, Coverage& coverage);
  virtual ~JobScenario();

  void go();

 protected:
  // --- what a kind says
  // Opens the nodes, and puts the guest's disk in.
  virtual void make_disks() = 0;
  // The graph lock is held.
  virtual Task<Expected<std::shared_ptr<BlockJob>>> create() = 0;
  // Which file fails, and at what.
  virtual void aim(sim::FaultRule& rule) = 0;
  // Nothing holds the job back any more: what it still needs, to end as it should.
  virtual Task<void> bring_to_end() { co_return; }
  // Goes on besides until the job is over.
  virtual Task<void> watch() { co_return; }
  // The job is over, nodes are open, and the power is on.
  virtual Task<void> after_the_job() { co_return; }
  // All is open still. `well`: the job did what it was to do.
  virtual void judge_graph(bool well) = 0;
  // All is closed; `left` is in the files, after a power cut if there was one.
  virtual void judge_files(const sim::StorageImage& left, bool well, bool crashed) = 0;
  // For who looks into a seed that failed.
  virtual std::string describe() const = 0;

  static OnError draw_policy(sim::SimRandom& chance, bool may_be_auto);

  sim::SimStorage& storage() { return world_.env.storage(); }
  bool powered() { return storage().powered(); }
  GoldenDisk& golden() { return guest_.golden(); }
  bool over() const {
    return job_->status() == JobStatus::kConcluded || job_->status() == JobStatus::kNull;
  }

  World& world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  SimGuest guest_;
  std::shared_ptr<BlockJob> job_;

 private:
  static void demand_marks(Coverage& coverage);
  Task<void> run();
  Task<void> start();
  Task<void> cut_the_power();
  void add_faults();
  bool end_faults();
  // The client.
  Task<void> steer();
  Task<void> one_verb();
  void resume();
  Task<void> drain_something();
  void judge();
  void come_to_rest();

  const JobPlan& plan_;
  Reopenings reopenings_;
  std::vector<sim::SimStorage::RuleId> faults_;
  // The power goes off when the job is over, or went off before.
  bool cuts_later_ = false;
  bool cut_ = false;
  Gate gate_;
};

}  // namespace blockbed::test
