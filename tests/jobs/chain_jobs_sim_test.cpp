// Two jobs at once on one chain of real images: a commit within its lower part, and a stream or
// another commit within the part above, while a guest writes, under faults and power cuts; judged
// by a golden model. Neither may touch what is the other's, nor what the chain shows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/drain.h"
#include "block/jobs/commit.h"
#include "block/jobs/stream.h"
#include "tests/jobs/image_chain_fixture.h"
#include "tests/jobs/job_scenario_fixture.h"
#include "tests/support/graph_picture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::ImageChain;
using test::JobScenario;
using test::kKiB;
using test::World;

constexpr uint64_t kSeeds = 200;
constexpr std::size_t kLayers = 8;
constexpr std::size_t kDisk = kLayers - 1;

// The layers above `base`, up to `top`, go: into the base, or by a stream into the disk.
struct Part {
  std::size_t base;
  std::size_t top;

  std::size_t count() const { return top - base; }
};

struct Plan : test::JobPlan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(2, 16)) * 64 * kKiB;
    for (std::size_t i = 0; i < kLayers; ++i) {
      qcow2::CreateOptions layer;
      layer.size = size;
      layer.cluster_size = uint64_t{4096} << chance.below(5);
      layers.push_back(layer);
    }
    lower.base = chance.below(2);
    lower.top = lower.base + 1 + chance.below(2);
    streams = chance.percent(50);
    // A commit changes the name in the overlay of its layers, so that cannot be another's base.
    const std::size_t lowest = lower.top + (streams ? 1 : 2);
    upper.base = lowest + chance.below(kDisk - 1 - lowest);
    upper.top = streams ? kDisk - 1 : upper.base + 1 + chance.below(kDisk - 1 - upper.base);
    faults = chance.percent(35);
    crash = chance.percent(35);
    cancels = chance.percent(15);
    writers = static_cast<int>(chance.between(1, 2));
  }

  std::vector<qcow2::CreateOptions> layers;
  Part lower;
  Part upper;
  // The upper part goes into the disk.
  bool streams;
};

class Scenario final : public JobScenario {
 public:
  Scenario(World& world, const Plan& plan, Coverage& coverage)
      : JobScenario(world, plan, coverage), plan_(plan), chain_(world, plan.layers) {}

 private:
  Node& layer(std::size_t number) const {
    return *world_.graph->find_node(ImageChain::name(number));
  }

  void make_disks() override {
    chain_.make(golden());
    world_.open(chain_.definition(kDisk));
    guest_.insert(layer(kDisk));
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create_commit(std::string id, std::size_t disk,
                                                          Part part) {
    CommitOptions options;
    options.job.id = std::move(id);
    options.named = true;
    options.job.auto_finalize = chance_.percent(70);
    options.disk = NodeRef(layer(disk));
    options.overlay = NodeRef(layer(part.top + 1));
    options.top = NodeRef(layer(part.top));
    options.base = NodeRef(layer(part.base));
    options.on_error = draw_policy(chance_, /*may_be_auto=*/false);
    if (chance_.percent(50)) options.speed = chance_.between(1, 50) * 1'000'000;
    co_return co_await CommitJob::create(*world_.jobs, std::move(options));
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create_stream() {
    StreamOptions options;
    options.job.id = "second";
    options.named = true;
    options.job.auto_finalize = chance_.percent(70);
    options.top = NodeRef(layer(kDisk));
    options.base = NodeRef(layer(plan_.upper.base));
    options.on_error = draw_policy(chance_, /*may_be_auto=*/true);
    if (chance_.percent(50)) options.speed = chance_.between(1, 50) * 1'000'000;
    DrainedSection drained = co_await drain(layer(kDisk));
    co_return co_await StreamJob::create(*world_.jobs, std::move(options));
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create() override {
    // Each node serves one job as its disk.
    return create_commit("j", plan_.lower.top + 1, plan_.lower);
  }

  // The second job, with a client of its own.
  Task<void> watch() override {
    co_await world_.env.delay(chance_.between(0, 300'000));
    if (!co_await start_second()) co_return;
    coverage_.hit_if(!over(), "two at once");
    for (int64_t turns = chance_.between(0, 6); turns > 0 && !ended(*second_); --turns) {
      co_await world_.env.delay(chance_.between(0, 300'000));
      if (chance_.percent(50)) {
        (void)second_->user_pause();
      } else {
        (void)second_->user_resume();
      }
    }
    if (chance_.percent(15) && !ended(*second_)) (void)co_await world_.jobs->cancel(second_, true);
    while (!ended(*second_)) {
      (void)second_->user_set_speed(0);
      (void)second_->user_resume();
      if (second_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(second_);
      if (!ended(*second_) && !powered()) (void)co_await world_.jobs->cancel(second_, true);
      co_await world_.env.delay(200'000);
    }
    if (!powered()) co_return;
    coverage_.hit(plan_.streams ? "a stream above" : "a commit above");
    coverage_.hit_if(!over(), "the second ended first");
  }

  Task<bool> start_second() {
    MutexGuard lock = co_await world_.graph->lock();
    auto created = plan_.streams ? co_await create_stream()
                                 : co_await create_commit("second", kDisk, plan_.upper);
    EXPECT_TRUE(created || plan_.faults || !powered()) << created.error().description;
    if (!created) co_return false;
    second_ = std::move(*created);
    world_.jobs->start(*second_);
    co_return true;
  }

  static bool ended(const Job& job) {
    return job.status() == JobStatus::kConcluded || job.status() == JobStatus::kNull;
  }

  void aim(sim::FaultRule& rule) override {
    const std::size_t places[] = {plan_.lower.base, plan_.lower.top, plan_.upper.top,
                                  plan_.streams ? kDisk : plan_.upper.base};
    rule.path = ImageChain::name(places[chance_.below(std::size(places))]);
  }

  void judge_graph(bool well) override {
    const bool second_well = second_ && !second_->failure();
    coverage_.hit_if(well && second_well, "both ended well");
    coverage_.hit_if(well != second_well && powered(), "only one ended well");
    EXPECT_EQ(guest_.node(), &layer(kDisk));
    std::size_t depth = 0;
    for (Node* node = &layer(kDisk); node != nullptr; node = node->backing_node()) ++depth;
    EXPECT_EQ(depth,
              kLayers - (well ? plan_.lower.count() : 0) - (second_well ? plan_.upper.count() : 0))
        << test::picture_of(*world_.graph);
  }

  void judge_files(const sim::StorageImage& left, bool, bool crashed) override {
    const bool clean = !crashed && !plan_.faults && !plan_.crash;
    ImageChain::judge(left, kDisk, golden(), {crashed, clean});
  }

  std::string describe() const override {
    return fmt::format("{} to {} committed, {} to {} {}", plan_.lower.base, plan_.lower.top,
                       plan_.upper.base, plan_.upper.top, plan_.streams ? "streamed" : "committed");
  }

  const Plan& plan_;
  ImageChain chain_;
  std::shared_ptr<BlockJob> second_;
};

TEST(ChainJobsSimulation, EachKeepsToItsPart) {
  Coverage coverage({"two at once", "the second ended first", "a stream above", "a commit above",
                     "both ended well", "only one ended well"});
  coverage.demand(test::Reopenings::kChainMarks);
  coverage.demand(test::Reopenings::kImageMarks);
  JobScenario::run_seeds<Plan, Scenario>(coverage, kSeeds);
}

}  // namespace
}  // namespace blockbed
