// Commits within chains of real images whose disk guests go on writing to, under faults and power
// cuts at any point, judged by a golden model.
//
// Each seed draws a chain, which of its layers go where, what the client does and what fails. Then
// another world opens what is left of the files, as the images name each other: that is the disk.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/drain.h"
#include "block/graph/writable.h"
#include "block/jobs/commit.h"
#include "block/jobs/mirror.h"
#include "tests/jobs/image_chain_fixture.h"
#include "tests/jobs/job_scenario_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::ImageChain;
using test::JobScenario;
using test::kKiB;
using test::World;

constexpr uint64_t kSeeds = 300;
constexpr std::size_t kLayers = 4;
constexpr std::size_t kDisk = kLayers - 1;

struct Plan : test::JobPlan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(2, 24)) * 64 * kKiB;
    const bool lower_is_shorter = chance.percent(30);
    for (std::size_t i = 0; i < kLayers; ++i) {
      qcow2::CreateOptions layer;
      layer.size = i == 0 && lower_is_shorter ? size / 2 : size;
      layer.cluster_size = uint64_t{4096} << chance.below(6);
      layers.push_back(layer);
    }
    base = chance.below(kDisk);
    top = base + 1 + chance.below(kDisk - base);
    faults = chance.percent(35);
    crash = chance.percent(40);
    cancels = chance.percent(15);
    writers = static_cast<int>(chance.between(1, 2));
  }
  bool active() const { return top == kDisk; }
  bool base_grows() const { return layers[base].size < size; }

  std::vector<qcow2::CreateOptions> layers;
  std::size_t base;
  std::size_t top;
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
    // The layers below belong to the disk and are for reading.
    world_.open(chain_.definition(kDisk));
    guest_.insert(layer(kDisk));
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create() override {
    const OnError policy = draw_policy(chance_, /*may_be_auto=*/false);
    const int64_t speed = chance_.percent(25) ? chance_.between(1, 100) * 1'000'000 : 0;
    if (plan_.active()) {
      MirrorOptions options;
      options.job.id = "j";
      options.named = options.commit = true;
      options.source = NodeRef(layer(plan_.top));
      options.target = NodeRef(layer(plan_.base));
      options.on_source_error = options.on_target_error = policy;
      options.speed = speed;
      auto opened = co_await make_writable(*world_.graph, layer(plan_.base));
      if (!opened) co_return fail(std::move(opened).error());
      options.opened = std::move(*opened);
      DrainedSection drained = co_await drain(layer(plan_.top));
      co_return co_await MirrorJob::create(*world_.jobs, std::move(options));
    }
    CommitOptions options;
    options.job.id = "j";
    options.named = true;
    options.job.auto_finalize = chance_.percent(70);
    options.disk = NodeRef(layer(kDisk));
    options.overlay = NodeRef(layer(plan_.top + 1));
    options.top = NodeRef(layer(plan_.top));
    options.base = NodeRef(layer(plan_.base));
    options.on_error = policy;
    options.speed = speed;
    co_return co_await CommitJob::create(*world_.jobs, std::move(options));
  }

  // The layers that the job reads and writes; what fails under the guest is another matter.
  void aim(sim::FaultRule& rule) override {
    rule.path = ImageChain::name(chance_.percent(50) ? plan_.base : plan_.top);
  }

  Task<void> bring_to_end() override {
    if (job_->status() == JobStatus::kReady) (void)co_await job_->user_complete();
  }

  void judge_graph(bool well) override {
    coverage_.hit(plan_.active() ? "active" : "intermediate");
    coverage_.hit_if(well && plan_.base_grows(), "the base grew");
    disk_ = guest_.node() == &layer(plan_.base) ? plan_.base : kDisk;
    EXPECT_EQ(guest_.node(), &layer(disk_));
    // A ready job that is cancelled ends well, and leaves the guest where it was.
    EXPECT_TRUE((disk_ == plan_.base) == (well && plan_.active()) || (well && plan_.cancels));
    if (!well || plan_.active()) return;
    EXPECT_EQ(layer(plan_.top + 1).backing_node(), &layer(plan_.base));
    // An image that cannot put its tables back goes on trying, and stays writable for that.
    EXPECT_TRUE(plan_.faults || plan_.crash || !layer(plan_.base).writable());
  }

  void judge_files(const sim::StorageImage& left, bool, bool crashed) override {
    const bool clean = !crashed && !plan_.faults && !plan_.crash;
    ImageChain::judge(left, disk_, golden(), {crashed, clean});
  }

  std::string describe() const override {
    return fmt::format("layers {} to {} over {}", plan_.base, plan_.top, plan_.layers[0].size);
  }

  const Plan& plan_;
  ImageChain chain_;
  // The layer that is the guest's disk at the end.
  std::size_t disk_ = kDisk;
};

TEST(CommitSimulation, TheChainShowsTheDisk) {
  Coverage coverage({"active", "intermediate", "the base grew"});
  coverage.demand(test::Reopenings::kChainMarks);
  coverage.demand(test::Reopenings::kImageMarks);
  JobScenario::run_seeds<Plan, Scenario>(coverage, kSeeds);
}

}  // namespace
}  // namespace blockbed
