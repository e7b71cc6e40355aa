// Mirrors of disks that guests go on writing to, under every fault that the simulator knows, judged
// by a golden model.
//
// Each seed draws a disk, how it is mirrored, what the client does and what fails. At the end of a
// job that ended well the target is the disk; with writes to both sides it is that whenever the job
// is ready and no write is under way.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/drain.h"
#include "block/jobs/mirror.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/jobs/layer_driver.h"
#include "tests/jobs/reopenings_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::GoldenDisk;
using test::kKiB;

constexpr uint64_t kCluster = 64 * kKiB;
constexpr uint64_t kJunk = 0xEEEEEEEEEEEEEEEE;
constexpr uint64_t kSeeds = 400;

// What this seed does.
struct Plan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(1, 40)) * kCluster;
    if (chance.percent(50)) size += static_cast<uint64_t>(chance.between(1, 127)) * 512;
    layered = chance.percent(40);
    // The base takes what is in the layer: an active commit.
    commit = layered && chance.percent(50);
    const uint64_t kind = chance.below(10);
    sync = commit || kind < 7 ? MirrorSync::kFull : kind < 8 ? MirrorSync::kNone : MirrorSync::kTop;
    if (!layered && sync == MirrorSync::kTop) sync = MirrorSync::kFull;
    both = !commit && chance.percent(50);
    faults = chance.percent(40);
    crash = chance.percent(15);
    cancels = chance.percent(20);
    pivots = chance.percent(60);
    writers = static_cast<int>(chance.between(1, 3));
  }

  uint64_t size;
  bool layered;
  bool commit;
  MirrorSync sync;
  bool both;
  bool faults;
  bool crash;
  bool cancels;
  bool pivots;
  int writers;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        plan_(chance_),
        golden_(plan_.size),
        image_(plan_.size),
        reopenings_(world_, coverage, {plan_.faults, plan_.crash}),
        gate_(world_.env.executor()) {}

  void go() {
    make_disks();
    world_.run(scenario());
    judge();
    world_.run(guest_->remove());
    guest_.reset();
    if (!testing::Test::HasFailure()) return;
    for (const std::string& line : world_.events.lines) fmt::print("  {}\n", line);
  }

 private:
  bool powered() { return world_.env.storage().powered(); }
  bool over() const {
    return job_->status() == JobStatus::kConcluded || job_->status() == JobStatus::kNull;
  }
  bool pivoted() const { return guest_->node() == target_; }

  // A source with data, zeroes and holes; with layers, the lower half of the truth is in the
  // backing file.
  void make_disks() {
    std::vector<std::byte> base(plan_.size);
    base_content_.resize(plan_.size / 512);
    for (uint64_t at = 0; at < plan_.size; at += kCluster) {
      const uint64_t length = std::min(kCluster, plan_.size - at);
      if (chance_.percent(30)) continue;
      const uint64_t number = golden_.next_number();
      GoldenDisk::fill({base.data() + at, length}, number);
      golden_.preset(at, length, number);
    }
    sim::SparseBytes content;
    content.resize(plan_.size);
    for (uint64_t at = 0; at < plan_.size; at += 512) {
      base_content_[at / 512] = *GoldenDisk::shown(base.data() + at);
      if (base_content_[at / 512] != 0) content.write(at, {base.data() + at, 512});
    }
    json::Object options;
    if (chance_.percent(50)) options.set("discard", "unmap");
    if (plan_.layered) {
      world_.drivers.add(test::layer_entry(world_.env, image_));
      base_ = &world_.file("base", std::move(content));
      for (uint64_t c = 0; c < image_.allocated.size(); ++c) {
        if (!chance_.percent(40)) continue;
        image_.allocated[c] = true;
        image_.zero[c] = chance_.percent(30);
        const uint64_t at = c * kCluster, length = std::min(kCluster, plan_.size - at);
        const uint64_t number = image_.zero[c] ? 0 : golden_.next_number();
        GoldenDisk::fill({image_.bytes.data() + at, length}, number);
        golden_.preset(at, length, number);
      }
      options.set("driver", "qed");
      options.set("node-name", "s");
      options.set("file", json::Object{{"driver", "null-co"}});
      options.set("backing", "base");
      source_ = &world_.open(std::move(options));
    } else {
      source_ = &world_.file("s", std::move(content), std::move(options));
    }
    make_target();
    guest_ = world_.guest(*source_);
  }

  // What the job does not have to copy is there already.
  void make_target() {
    if (plan_.commit) {
      target_ = base_;
      return;
    }
    std::vector<std::byte> junk(plan_.size);
    for (uint64_t at = 0; at < plan_.size; at += 512) {
      uint64_t number = kJunk;
      if (plan_.sync == MirrorSync::kTop) number = base_content_[at / 512];
      GoldenDisk::fill({junk.data() + at, 512}, number);
    }
    world_.env.storage().put("t", std::span<const std::byte>(junk));
    json::Object options{{"driver", "file"}, {"node-name", "t"}, {"filename", "t"}};
    if (chance_.percent(50)) options.set("discard", "unmap");
    target_ = &world_.open(std::move(options));
  }
  const char* target_file() const { return plan_.commit ? "base" : "t"; }

  Task<void> scenario() {
    for (int i = 0; i < plan_.writers; ++i) gate_.spawn(write_for_a_while());
    co_await world_.env.delay(chance_.between(0, 2'000'000));
    co_await start();
    if (job_) {
      gate_.spawn(steer());
      if (plan_.both) gate_.spawn(look_at_the_target());
      co_await world_.wait_for_end(job_);
    }
    stop_ = true;
    co_await gate_.close();
  }

  Task<void> start() {
    MirrorOptions options;
    options.job.id = "j";
    options.named = true;
    options.source = NodeRef(*source_);
    options.target = NodeRef(*target_);
    options.sync = plan_.sync;
    options.commit = plan_.commit;
    options.write_blocking = plan_.both;
    constexpr OnError kPolicies[] = {OnError::kReport, OnError::kIgnore, OnError::kEnospc,
                                     OnError::kStop};
    options.on_source_error = kPolicies[chance_.below(4)];
    options.on_target_error = kPolicies[chance_.below(4)];
    if (chance_.percent(60)) options.granularity = uint64_t{512} << chance_.below(9);
    if (chance_.percent(40)) options.buffer_size = chance_.between(1, 300) * 1000;
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    options.job.auto_finalize = chance_.percent(70);
    MutexGuard lock = co_await world_.graph->lock();
    DrainedSection drained = co_await drain(*source_);
    // Without the old content, only what was written since then can be judged.
    written_.resize(plan_.size / 512, plan_.sync != MirrorSync::kNone);
    auto created = co_await MirrorJob::create(*world_.jobs, std::move(options));
    EXPECT_TRUE(created.has_value()) << created.error().description;
    if (!created) co_return;
    job_ = *created;
    drained.end();
    world_.jobs->start(*job_);
    if (plan_.faults) add_faults();
    if (plan_.crash) {
      world_.env.storage().power_off_at(world_.env.storage().operations() + chance_.below(60));
    }
  }

  void add_faults() {
    for (int64_t i = chance_.between(1, 3); i > 0; --i) {
      sim::FaultRule rule;
      rule.path = chance_.percent(60) ? target_file() : plan_.layered ? "base" : "s";
      rule.requests = sim::kSimRead | sim::kSimWrite | sim::kSimZero;
      rule.error = chance_.percent(50) ? EIO : ENOSPC;
      rule.skip = chance_.below(12);
      rule.times = static_cast<uint64_t>(chance_.between(1, 4));
      faults_.push_back(world_.env.storage().add_fault(rule));
    }
  }

  // --- guests

  Task<void> write_for_a_while() {
    while (!stop_) {
      if (!still_ && !halted_) co_await one_request();
      co_await world_.env.delay(chance_.between(0, 100'000));
      // A job that cannot go on at all must not keep the guest writing for ever.
      if (++requests_ > 400) co_return;
    }
  }

  Task<void> one_request() {
    const uint64_t sectors = plan_.size / 512;
    const uint64_t first = chance_.below(sectors);
    const uint64_t most = chance_.percent(80) ? 24 : 600;
    const uint64_t count = 1 + chance_.below(std::min(most, sectors - first));
    const uint64_t offset = first * 512, length = count * 512;
    const uint64_t what = chance_.below(10);
    if (what == 9) {
      ++under_way_;
      const uint64_t since = golden_.flush_begins();
      if (co_await guest_->flush()) golden_.flushed(since);
      --under_way_;
      co_return;
    }
    if (golden_.busy(offset, length)) co_return;
    ++under_way_;
    const uint64_t number = what < 7 ? golden_.next_number() : 0;
    golden_.begin(offset, length, number);
    Result<void> done;
    if (what < 7) {
      Buffer buffer(length);
      GoldenDisk::fill(buffer.span(), number);
      done = co_await guest_->write(offset, buffer.io());
    } else if (what == 7) {
      done =
          co_await guest_->zero(offset, length, RequestFlags().with_may_unmap(chance_.percent(50)));
    } else {
      done = co_await guest_->discard(offset, length);
    }
    golden_.end(offset, length, number, done.has_value(), /*optional=*/what == 8);
    if (done && what != 8 && job_ != nullptr) {
      std::fill_n(written_.begin() + static_cast<std::ptrdiff_t>(first), count, true);
    }
    --under_way_;
  }

  // --- the client: pauses, resumes, speeds, drained sections, at last an end

  Task<void> steer() {
    const int64_t turns = chance_.between(0, 12);
    for (int64_t i = 0; i < turns && !over(); ++i) {
      co_await world_.env.delay(chance_.between(0, 500'000));
      co_await one_verb();
    }
    if (plan_.cancels && !over()) {
      (void)co_await world_.jobs->cancel(job_, chance_.percent(50));
    }
    // From now on nothing holds the job back but its own errors; those end, save after a crash.
    for (int i = 0; !over(); ++i) {
      (void)job_->user_set_speed(0);
      (void)job_->user_resume();
      if (i > 2) co_await end();
      if (job_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job_);
      if (!over() && !powered()) (void)co_await world_.jobs->cancel(job_, true);
      co_await world_.env.delay(200'000);
    }
  }

  Task<void> end() {
    if (job_->status() != JobStatus::kReady) co_return;
    coverage_.hit("ready");
    if (plan_.pivots) {
      (void)co_await job_->user_complete();
    } else {
      // The copy is of the instant at which the job ends: none of what it shows is older.
      halted_ = true;
      while (under_way_ > 0 && !over()) co_await world_.env.delay(10'000);
      if (job_->status() == JobStatus::kReady) (void)co_await world_.jobs->cancel(job_, false);
    }
  }

  Task<void> one_verb() {
    switch (chance_.below(8)) {
      case 0:
        if (job_->user_pause()) coverage_.hit("pause");
        break;
      case 1:
        (void)job_->user_resume();
        break;
      case 2:
        (void)job_->user_set_speed(chance_.between(0, 300) * 1'000'000);
        break;
      case 3:
      case 4: {
        DrainedSection drained = co_await drain(chance_.percent(50) ? *source_ : *target_);
        EXPECT_FALSE(job_->busy());
        co_await world_.env.delay(chance_.between(0, 300'000));
        coverage_.hit("drained section");
        break;
      }
      case 5:
        co_await world_.jobs->settle(job_);
        break;
      default:
        co_await reopenings_.one(job_);
    }
  }

  // --- judges

  // With writes to both sides, a ready job needs no end for its target to be the disk.
  Task<void> look_at_the_target() {
    while (!over()) {
      co_await world_.env.delay(chance_.between(100'000, 1'000'000));
      if (job_->status() != JobStatus::kReady || plan_.faults || !powered()) continue;
      still_ = true;
      while (under_way_ > 0 && !over()) co_await world_.env.delay(10'000);
      if (job_->status() == JobStatus::kReady && powered()) {
        expect_equal(world_.env.storage().content("t").bytes(), "while ready");
        coverage_.hit("the target looked at while ready");
      }
      still_ = false;
    }
  }

  void expect_equal(const std::vector<std::byte>& copy, const char* when) {
    ASSERT_EQ(copy.size(), plan_.size);
    for (uint64_t sector = 0; sector < plan_.size / 512; ++sector) {
      const std::byte* bytes = copy.data() + sector * 512;
      if (!written_[sector] && GoldenDisk::shown(bytes) == kJunk) continue;
      ASSERT_TRUE(golden_.may_show(sector, bytes))
          << when << " sector " << sector << " shows " << GoldenDisk::shown(bytes).value_or(~0ull)
          << ", which the disk does not";
    }
  }

  void judge() {
    EXPECT_TRUE(world_.jobs->jobs().empty());
    EXPECT_EQ(guest_->node(), pivoted() ? target_ : source_);
    // What is left of the faults is not for the judge.
    bool met = false;
    for (const sim::SimStorage::RuleId fault : faults_) {
      met = met || world_.env.storage().hits(fault) > 0;
      world_.env.storage().remove_fault(fault);
    }
    if (!powered()) {
      coverage_.hit("power cut");
      return judge_crash();
    }
    // Whatever became of the job, the guest has its disk.
    std::vector<std::byte> now(plan_.size);
    const Result<void> read = world_.run(guest_->read(0, IoVector(now.data(), now.size())));
    ASSERT_TRUE(read.has_value()) << strerror_text(read.error());
    const bool whole = !pivoted() || plan_.sync != MirrorSync::kNone;
    if (whole) {
      EXPECT_FALSE(golden_.first_wrong(now).has_value())
          << "the guest's disk is wrong from sector " << *golden_.first_wrong(now);
    }
    if (job_ == nullptr) return;
    if (!plan_.cancels && !met) EXPECT_FALSE(job_->failure().has_value()) << job_->failure()->text;
    if (job_->failure()) {
      EXPECT_FALSE(pivoted());
      coverage_.hit(job_->cancelled() ? "cancelled" : "failed");
      return;
    }
    coverage_.hit(pivoted() ? "pivoted" : "ended as a copy");
    coverage_.hit(plan_.commit ? "active commit" : plan_.both ? "writes to both" : "background");
    coverage_.hit_if(met, "ended well in spite of faults");
    if (pivoted() || halted_) {
      expect_equal(world_.env.storage().content(target_file()).bytes(), "at the end");
    }
  }

  void judge_crash() {
    if (plan_.layered || pivoted()) return;
    world_.env.storage().power_off();
    const auto image =
        world_.env.storage().crash_image(sim::CrashSubset::seeded(world_.env.seed()));
    const std::vector<std::byte> after = image.at("s").bytes();
    ASSERT_EQ(after.size(), plan_.size);
    const auto wrong = golden_.first_wrong(after, /*crashed=*/true);
    EXPECT_FALSE(wrong.has_value())
        << "after the crash sector " << *wrong << " shows what nobody wrote";
  }

  test::World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  Plan plan_;
  GoldenDisk golden_;
  test::LayerImage image_;
  std::vector<uint64_t> base_content_;
  // Sectors of which it is known that the target must show them.
  std::vector<bool> written_;
  std::vector<sim::SimStorage::RuleId> faults_;
  Node* base_ = nullptr;
  Node* source_ = nullptr;
  Node* target_ = nullptr;
  std::unique_ptr<Backend> guest_;
  std::shared_ptr<MirrorJob> job_;
  test::Reopenings reopenings_;
  Gate gate_;
  bool stop_ = false;
  // Guests hold still for a moment, or for ever.
  bool still_ = false;
  bool halted_ = false;
  int under_way_ = 0;
  int requests_ = 0;
};

TEST(MirrorSimulation, TheTargetIsTheDisk) {
  Coverage coverage({
      "ready",
      "pause",
      "drained section",
      "the target looked at while ready",
      "power cut",
      "cancelled",
      "failed",
      "pivoted",
      "ended as a copy",
      "active commit",
      "writes to both",
      "background",
      "ended well in spite of faults",
  });
  coverage.demand(test::Reopenings::kMarks);
  coverage.demand(test::Reopenings::kChainMarks);
  test::for_each_seed_covering(coverage, kSeeds,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
