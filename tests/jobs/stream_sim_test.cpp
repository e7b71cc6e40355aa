// Streams of real qcow2 chains under guests that go on writing, with every fault that the simulator
// knows, judged by a golden model: what the guest sees, what is on disk after the end or after the
// power was cut, and that the files that are no longer needed are not needed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "block/graph/drain.h"
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
using test::kMiB;
using test::World;

constexpr uint64_t kSector = test::GoldenDisk::kSector;
constexpr uint64_t kSeeds = 600;

struct Plan : test::JobPlan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(1, 40)) * 64 * kKiB;
    if (chance.percent(30)) size += static_cast<uint64_t>(chance.between(1, 127)) * kSector;
    if (chance.percent(10)) size += 2 * kMiB;
    const auto count = static_cast<std::size_t>(chance.between(2, 5));
    for (std::size_t i = 0; i < count; ++i) {
      qcow2::CreateOptions layer;
      layer.size = size;
      if (i + 1 < count && chance.percent(15)) {
        layer.size = std::max<uint64_t>(kSector, chance.below(size / kSector) * kSector);
      }
      constexpr uint64_t kClusters[] = {65536, 65536, 4096, 512};
      layer.cluster_size = kClusters[chance.below(4)];
      layer.lazy_refcounts = chance.percent(15);
      layer.extended_l2 = layer.cluster_size == 65536 && chance.percent(20);
      layers.push_back(layer);
    }
    kept = chance.below(count);
    faults = chance.percent(40);
    crash = chance.percent(25);
    cancels = chance.percent(15);
    writers = static_cast<int>(chance.between(1, 3));
  }
  std::size_t top() const { return layers.size() - 1; }

  std::vector<qcow2::CreateOptions> layers;
  // So many of the lowest layers stay.
  std::size_t kept;
};

class Scenario final : public JobScenario {
 public:
  Scenario(World& world, const Plan& plan, Coverage& coverage)
      : JobScenario(world, plan, coverage), plan_(plan), chain_(world, plan.layers) {}

 private:
  void make_disks() override {
    chain_.make(golden());
    if (testing::Test::HasFailure()) return;
    // The images below are found by the names that the images have of them.
    const std::string file = ImageChain::name(plan_.top());
    top_ = &world_.open({{"driver", "qcow2"},
                         {"node-name", "top"},
                         {"discard", "unmap"},
                         {"file", json::Object{{"driver", "file"}, {"filename", file}}}});
    guest_.insert(*top_);
  }

  Node* layer(std::size_t number) const {
    Node* node = top_;
    for (std::size_t i = plan_.top(); i > number; --i) node = node->backing_node();
    return node;
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create() override {
    StreamOptions options;
    options.job.id = "j";
    options.named = true;
    options.job.auto_finalize = chance_.percent(70);
    options.top = NodeRef(*top_);
    if (plan_.kept > 0 && chance_.percent(40)) {
      options.bottom = NodeRef(*layer(plan_.kept));
    } else if (plan_.kept > 0) {
      options.base = NodeRef(*layer(plan_.kept - 1));
    }
    options.on_error = draw_policy(chance_, /*may_be_auto=*/true);
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    DrainedSection drained = co_await drain(*top_);
    co_return co_await StreamJob::create(*world_.jobs, std::move(options));
  }

  void aim(sim::FaultRule& rule) override {
    const std::size_t where = chance_.below(plan_.layers.size());
    rule.path = ImageChain::name(where);
    // The files below are only read.
    if (where < plan_.top()) rule.requests = sim::kSimRead;
  }

  void judge_graph(bool well) override {
    EXPECT_EQ(top_->parents().size(), 1u) << test::picture_of(*world_.graph);
    coverage_.hit_if(well && plan_.kept == 0, "everything streamed");
    // A chain of so many images is what is left.
    std::size_t depth = 0;
    for (Node* node = top_; node != nullptr; node = node->backing_node()) ++depth;
    EXPECT_EQ(depth, well ? plan_.kept + 1 : plan_.layers.size());
  }

  void judge_files(const sim::StorageImage& left, bool well, bool crashed) override {
    sim::StorageImage needed = left;
    // The files that were brought up are not there any more.
    for (std::size_t i = plan_.kept; well && !crashed && i < plan_.top(); ++i) {
      needed.erase(ImageChain::name(i));
    }
    const bool clean = !crashed && !plan_.faults && !plan_.crash;
    ImageChain::judge(needed, plan_.top(), golden(), {crashed, clean});
  }

  std::string describe() const override {
    return fmt::format("{} layers, {} of them stay", plan_.layers.size(), plan_.kept);
  }

  const Plan& plan_;
  ImageChain chain_;
  Node* top_ = nullptr;
};

TEST(StreamSimulation, TheDiskStaysAsTheGuestLeftIt) {
  Coverage coverage({"everything streamed"});
  coverage.demand(test::Reopenings::kChainMarks);
  coverage.demand(test::Reopenings::kImageMarks);
  JobScenario::run_seeds<Plan, Scenario>(coverage, kSeeds);
}

}  // namespace
}  // namespace blockbed
