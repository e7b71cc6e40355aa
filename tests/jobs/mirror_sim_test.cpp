// Mirrors of disks that guests go on writing to, under every fault that the simulator knows, judged
// by a golden model.
//
// At the end of a job that ended well the target is the disk, and stays it when the power is cut
// then: after a pivot it is what a disk may show that guests use. With writes to both sides it is
// the disk whenever the job is ready and no write is under way.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "block/graph/drain.h"
#include "block/jobs/mirror.h"
#include "tests/jobs/job_scenario_fixture.h"
#include "tests/jobs/source_disk_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::GoldenDisk;
using test::JobScenario;
using test::SourceDisk;
using test::World;

constexpr uint64_t kSector = GoldenDisk::kSector;
constexpr uint64_t kSeeds = 400;

struct Plan : test::JobPlan {
  explicit Plan(sim::SimRandom& chance) {
    size = SourceDisk::draw_size(chance);
    layered = chance.percent(40);
    commit = layered && chance.percent(50);
    const uint64_t kind = chance.below(10);
    sync = commit || kind < 7 ? MirrorSync::kFull : kind < 8 ? MirrorSync::kNone : MirrorSync::kTop;
    if (!layered && sync == MirrorSync::kTop) sync = MirrorSync::kFull;
    both = !commit && chance.percent(50);
    replaces = !commit && sync != MirrorSync::kNone && chance.percent(25);
    faults = chance.percent(40);
    crash = chance.percent(15);
    cancels = chance.percent(20);
    pivots = chance.percent(60);
    writers = static_cast<int>(chance.between(1, 3));
  }

  bool layered;
  // The base takes what is in the layer: an active commit.
  bool commit;
  MirrorSync sync;
  bool both;
  // The disk is a filter, and the target takes the place of what is below it.
  bool replaces;
  bool pivots;
};

class Scenario final : public JobScenario {
 public:
  Scenario(World& world, const Plan& plan, Coverage& coverage)
      : JobScenario(world, plan, coverage), plan_(plan), source_(world, plan.size, plan.layered) {}

 private:
  bool ready() const { return job_->status() == JobStatus::kReady; }
  bool pivoted() const { return guest_.node()->skip_filters() == target_; }

  void make_disks() override {
    source_.make(golden());
    // What the job does not have to copy is there already.
    target_ = plan_.commit ? source_.base() : &source_.make_target(plan_.sync == MirrorSync::kTop);
    top_ = &source_.node();
    if (plan_.replaces) {
      top_ =
          &world_.open({{"driver", "blkdebug"}, {"node-name", "filter"}, {"image", top_->name()}});
    }
    guest_.insert(*top_);
    if (plan_.sync == MirrorSync::kNone) guest_.expect_nothing_of(*target_);
    guest_.set_listener([this](const test::SimGuest::Change& change) {
      if (!change.done || change.optional || job_ == nullptr) return;
      std::vector<bool>& written = pivoted() ? written_since_ : written_;
      std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(change.offset / kSector),
                  change.length / kSector, true);
    });
  }

  Task<Expected<std::shared_ptr<BlockJob>>> create() override {
    MirrorOptions options;
    options.job.id = "j";
    options.named = true;
    options.source = NodeRef(*top_);
    if (plan_.replaces) options.replaces = source_.node().name();
    options.target = NodeRef(*target_);
    options.sync = plan_.sync;
    options.commit = plan_.commit;
    options.write_blocking = plan_.both;
    options.on_source_error = draw_policy(chance_, /*may_be_auto=*/false);
    options.on_target_error = draw_policy(chance_, /*may_be_auto=*/false);
    options.unmap = chance_.percent(50);
    if (chance_.percent(60)) options.granularity = uint64_t{512} << chance_.below(9);
    if (chance_.percent(40)) options.buffer_size = chance_.between(1, 300) * 1000;
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    options.job.auto_finalize = chance_.percent(70);
    DrainedSection drained = co_await drain(*top_);
    // Without the old content, only what was written since then can be judged.
    written_.resize(plan_.size / kSector, plan_.sync != MirrorSync::kNone);
    written_since_.resize(written_.size());
    co_return co_await MirrorJob::create(*world_.jobs, std::move(options));
  }

  const char* target_file() const { return plan_.commit ? "base" : "t"; }
  void aim(sim::FaultRule& rule) override {
    rule.path = chance_.percent(60) ? target_file() : source_.lowest_file();
  }

  Task<void> bring_to_end() override {
    if (!ready()) co_return;
    coverage_.hit("ready");
    if (plan_.pivots) {
      (void)co_await job_->user_complete();
    } else {
      // The copy is of the instant at which the job ends: none of what it shows is older.
      if (!std::exchange(halted_, true)) co_await guest_.hold();
      if (ready()) (void)co_await world_.jobs->cancel(job_, false);
    }
  }

  // With writes to both sides, a ready job needs no end for its target to be the disk.
  Task<void> watch() override {
    while (plan_.both && !plan_.faults && !over()) {
      co_await world_.env.delay(chance_.between(100'000, 1'000'000));
      if (!ready() || !powered()) continue;
      co_await guest_.hold();
      if (ready() && powered()) {
        expect_equal(storage().content("t").bytes(), "while ready");
        coverage_.hit("the target looked at while ready");
      }
      guest_.go_on();
    }
  }

  void judge_graph(bool well) override {
    EXPECT_EQ(guest_.node(), pivoted() && !plan_.replaces ? target_ : top_);
    EXPECT_TRUE(well || !pivoted());
    was_pivoted_ = pivoted();
    if (!well) return;
    coverage_.hit(pivoted() ? "pivoted" : "ended as a copy");
    coverage_.hit_if(plan_.replaces && pivoted(), "replaced below a filter");
    coverage_.hit(plan_.commit ? "active commit" : plan_.both ? "writes to both" : "background");
  }

  void judge_files(const sim::StorageImage& left, bool well, bool crashed) override {
    if (!was_pivoted_ && !plan_.commit) source_.judge(left, golden(), crashed);
    if (!well || !(was_pivoted_ || halted_)) return;
    // A job flushes its target at the end. What a guest has written to it since is another matter.
    const bool lossy = crashed && was_pivoted_;
    expect_equal(left.at(target_file()).bytes(), lossy ? "after the power cut" : "at the end",
                 lossy);
    coverage_.hit_if(lossy, "the target judged after a pivot and a power cut");
    coverage_.hit_if(crashed && !lossy, "the copy judged after a power cut");
  }

  void expect_equal(const std::vector<std::byte>& copy, const char* when, bool lossy = false) {
    ASSERT_EQ(copy.size(), plan_.size);
    for (uint64_t sector = 0; sector < plan_.size / kSector; ++sector) {
      const std::byte* bytes = copy.data() + sector * kSector;
      const bool written = written_[sector] || (written_since_[sector] && !lossy);
      if (!written && GoldenDisk::shown(bytes) == SourceDisk::kJunk) continue;
      ASSERT_TRUE(golden().may_show(sector, bytes, lossy))
          << when << " sector " << sector << " shows " << GoldenDisk::shown(bytes).value_or(~0ull)
          << ", which the disk does not";
    }
  }

  std::string describe() const override {
    constexpr const char* kSyncs[] = {"full", "top", "none"};
    return fmt::format("{} of {}{}{}{}", kSyncs[static_cast<int>(plan_.sync)],
                       plan_.layered ? "two layers" : "a file",
                       plan_.commit ? " into the base" : "", plan_.both ? ", writes to both" : "",
                       plan_.replaces ? ", below a filter" : "");
  }

  const Plan& plan_;
  SourceDisk source_;
  // The guest's disk, as long as it is not the target.
  Node* top_ = nullptr;
  Node* target_ = nullptr;
  // Sectors of which it is known that the target must show them.
  std::vector<bool> written_;
  // The same, since guests use the target; a power cut may take that away.
  std::vector<bool> written_since_;
  // The guest holds still until the end.
  bool halted_ = false;
  bool was_pivoted_ = false;
};

TEST(MirrorSimulation, TheTargetIsTheDisk) {
  Coverage coverage({
      "ready",
      "the target looked at while ready",
      "pivoted",
      "the target judged after a pivot and a power cut",
      "ended as a copy",
      "the copy judged after a power cut",
      "active commit",
      "replaced below a filter",
      "writes to both",
      "background",
  });
  coverage.demand(test::Reopenings::kChainMarks);
  JobScenario::run_seeds<Plan, Scenario>(coverage, kSeeds);
}

}  // namespace
}  // namespace blockbed
