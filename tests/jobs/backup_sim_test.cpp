// Backups against guests that go on writing, under every fault that the simulator knows, judged by
// a golden model.
//
// At the end of a backup that ended well the target is the disk as it was at the job's beginning;
// with sync=none, where the guest has written since. However it ends, and when the power is cut
// after that, the target holds nothing else than that instant and its old content.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/drain.h"
#include "tests/jobs/job_scenario_fixture.h"
#include "tests/jobs/source_disk_fixture.h"
#include "tests/support/graph_picture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::GoldenDisk;
using test::JobScenario;
using test::SourceDisk;
using test::World;

constexpr uint64_t kSector = GoldenDisk::kSector;
constexpr uint64_t kCluster = SourceDisk::kCluster;
constexpr uint64_t kSeeds = 1000;

struct Plan : test::JobPlan {
  explicit Plan(sim::SimRandom& chance) {
    size = SourceDisk::draw_size(chance);
    layered = chance.percent(40);
    const uint64_t kind = chance.below(10);
    sync = kind < 6 ? BackupSync::kFull : kind < 8 ? BackupSync::kNone : BackupSync::kTop;
    if (!layered && sync == BackupSync::kTop) sync = BackupSync::kFull;
    faults = chance.percent(40);
    crash = chance.percent(20);
    cancels = chance.percent(20);
    writers = static_cast<int>(chance.between(1, 3));
  }

  bool layered;
  BackupSync sync;
};

class Scenario final : public JobScenario {
 public:
  Scenario(World& world, const Plan& plan, Coverage& coverage)
      : JobScenario(world, plan, coverage),
        plan_(plan),
        source_(world, plan.size, plan.layered),
        touched_((plan.size + kCluster - 1) / kCluster),
        tried_(touched_.size()) {}

 private:
  void make_disks() override {
    source_.make(golden());
    target_ = &source_.make_target(/*like_the_base=*/false);
    guest_.insert(source_.node());
    guest_.set_listener([this](const test::SimGuest::Change& change) { note(change); });
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create() override {
    BackupOptions options = world_.options("j", source_.node(), *target_, plan_.sync);
    options.on_source_error = draw_policy(chance_, /*may_be_auto=*/true);
    options.on_target_error = draw_policy(chance_, /*may_be_auto=*/true);
    options.max_workers = chance_.between(1, 8);
    if (chance_.percent(40)) {
      options.max_chunk = static_cast<int64_t>(kCluster) * chance_.between(1, 4);
    }
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    options.job.auto_finalize = chance_.percent(70);
    DrainedSection drained = co_await drain(source_.node());
    instant_.emplace(golden());
    top_at_instant_ = source_.allocated();
    co_return co_await BackupJob::create(*world_.jobs, std::move(options));
  }

  void aim(sim::FaultRule& rule) override {
    rule.path = chance_.percent(60) ? "t" : source_.lowest_file();
  }

  Task<void> bring_to_end() override {
    if (plan_.sync == BackupSync::kNone) (void)co_await job_->user_complete();
  }

  // What a guest does makes a copy of the clusters that it touches.
  void note(const test::SimGuest::Change& change) {
    if (!instant_) return;
    for (uint64_t c = change.offset / kCluster; c <= (change.offset + change.length - 1) / kCluster;
         ++c) {
      tried_[c] = true;
      // A discard may have done nothing, and so need not have copied anything; and when the filter
      // is gone, the job is over.
      if (change.done && !change.optional && guest_.node() != &source_.node()) touched_[c] = true;
    }
  }

  // A backup flushes nothing itself: whoever wants its copy to survive does.
  Task<void> after_the_job() override {
    if (plan_.crash && chance_.percent(50)) flushed_ = (co_await target_->flush()).has_value();
  }

  void judge_graph(bool) override {
    EXPECT_EQ(source_.node().parents().size(), 1u) << test::picture_of(*world_.graph);
    EXPECT_TRUE(target_->parents().empty());
  }

  void judge_files(const sim::StorageImage& left, bool well, bool crashed) override {
    source_.judge(left, golden(), crashed);
    const bool complete = well && (flushed_ || !crashed);
    judge_target(left.at("t").bytes(), complete);
    coverage_.hit_if(crashed && complete, "flushed copy judged after a power cut");
  }

  void judge_target(const std::vector<std::byte>& copy, bool complete) {
    ASSERT_EQ(copy.size(), plan_.size);
    for (uint64_t sector = 0; sector < plan_.size / kSector; ++sector) {
      const uint64_t cluster = sector * kSector / kCluster;
      const std::byte* bytes = copy.data() + sector * kSector;
      const bool untouched = GoldenDisk::shown(bytes) == SourceDisk::kJunk;
      bool must = true;
      bool may = true;
      if (plan_.sync == BackupSync::kNone) must = touched_[cluster], may = tried_[cluster];
      if (plan_.sync == BackupSync::kTop) must = may = top_at_instant_[cluster];
      if (!(must && complete) && untouched) continue;
      ASSERT_TRUE(may && instant_->may_show(sector, bytes))
          << "sector " << sector << " shows " << GoldenDisk::shown(bytes).value_or(~0ull)
          << ", which was not there at the instant";
    }
  }

  std::string describe() const override {
    constexpr const char* kSyncs[] = {"full", "top", "none", "bitmap"};
    return fmt::format("{} of {}", kSyncs[static_cast<int>(plan_.sync)],
                       plan_.layered ? "two layers" : "a file");
  }

  const Plan& plan_;
  SourceDisk source_;
  Node* target_ = nullptr;
  std::optional<GoldenDisk> instant_;
  std::vector<bool> top_at_instant_;
  // By cluster: copied for sure, and perhaps, by what the guest did.
  std::vector<bool> touched_, tried_;
  // The target, after the job.
  bool flushed_ = false;
};

TEST(BackupSimulation, TheCopyIsTheDiskOfItsInstant) {
  Coverage coverage({"flushed copy judged after a power cut"});
  JobScenario::run_seeds<Plan, Scenario>(coverage, kSeeds);
}

}  // namespace
}  // namespace blockbed
