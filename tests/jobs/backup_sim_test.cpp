// Backups against guests that go on writing, under every fault that the simulator knows, judged by
// a golden model.
#include <gtest/gtest.h>

#include "block/graph/drain.h"
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

// What this seed does.
struct Plan {
  explicit Plan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(1, 40)) * kCluster;
    if (chance.percent(50)) size += static_cast<uint64_t>(chance.between(1, 127)) * 512;
    layered = chance.percent(40);
    const uint64_t kind = chance.below(10);
    sync = kind < 6 ? BackupSync::kFull : kind < 8 ? BackupSync::kNone : BackupSync::kTop;
    if (!layered && sync == BackupSync::kTop) sync = BackupSync::kFull;
    faults = chance.percent(40);
    crash = chance.percent(20);
    cancels = chance.percent(20);
    writers = static_cast<int>(chance.between(1, 3));
  }

  uint64_t size;
  bool layered;
  BackupSync sync;
  bool faults;
  bool crash;
  bool cancels;
  int writers;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        plan_(chance_),
        golden_(plan_.size),
        image_(plan_.size),
        reopenings_(world_, coverage, {plan_.faults, plan_.crash}),
        gate_(world_.env.executor()) {}

  void go() {
    make_disks();
    world_.run(scenario());
    if (plan_.crash) {
      check_crash();
    } else {
      check_end();
    }
    world_.run(guest_->remove());
    guest_.reset();
  }

 private:
  // A source with data, zeroes and holes; with layers, the lower half of the truth is in the
  // backing file.
  void make_disks() {
    std::vector<std::byte> base(plan_.size), junk(plan_.size);
    GoldenDisk::fill(junk, kJunk);
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
      if (GoldenDisk::shown(base.data() + at) != 0) content.write(at, {base.data() + at, 512});
    }
    // A guest that discards may get its space back, if it likes.
    json::Object options;
    if (chance_.percent(50)) options.set("discard", "unmap");
    if (plan_.layered) {
      world_.drivers.add(test::layer_entry(world_.env, image_));
      world_.file("base", std::move(content));
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
    world_.env.storage().put("t", std::span<const std::byte>(junk));
    target_ = &world_.open(
        {{"driver", "file"}, {"node-name", "t"}, {"filename", "t"}, {"discard", "unmap"}});
    guest_ = world_.guest(*source_);
    touched_.resize((plan_.size + kCluster - 1) / kCluster);
    tried_.resize(touched_.size());
  }

  Task<void> scenario() {
    for (int i = 0; i < plan_.writers; ++i) gate_.spawn(write_for_a_while());
    co_await world_.env.delay(chance_.between(0, 2'000'000));
    co_await start();
    if (job_) {
      gate_.spawn(steer());
      co_await world_.wait_for_end(job_);
    }
    stop_ = true;
    co_await gate_.close();
  }

  Task<void> start() {
    BackupOptions options = world_.options("j", *source_, *target_, plan_.sync);
    constexpr OnError kPolicies[] = {OnError::kReport, OnError::kIgnore, OnError::kEnospc,
                                     OnError::kStop, OnError::kAuto};
    options.on_source_error = kPolicies[chance_.below(5)];
    options.on_target_error = kPolicies[chance_.below(5)];
    options.max_workers = chance_.between(1, 8);
    if (chance_.percent(40))
      options.max_chunk = static_cast<int64_t>(kCluster) * chance_.between(1, 4);
    if (chance_.percent(30)) options.speed = chance_.between(1, 200) * 1'000'000;
    options.job.auto_finalize = chance_.percent(70);
    MutexGuard lock = co_await world_.graph->lock();
    DrainedSection drained = co_await drain(*source_);
    // The instant.
    instant_.emplace(golden_);
    top_at_instant_ = image_.allocated;
    started_ = true;
    auto created = co_await BackupJob::create(*world_.jobs, std::move(options));
    EXPECT_TRUE(created.has_value()) << created.error().description;
    if (!created) co_return;
    job_ = *created;
    world_.jobs->start(*job_);
    if (plan_.faults) add_faults();
    if (plan_.crash) {
      world_.env.storage().power_off_at(world_.env.storage().operations() + chance_.below(60));
    }
  }

  void add_faults() {
    for (int64_t i = chance_.between(1, 3); i > 0; --i) {
      sim::FaultRule rule;
      rule.path = chance_.percent(60) ? "t" : plan_.layered ? "base" : "s";
      rule.requests = sim::kSimRead | sim::kSimWrite | sim::kSimZero;
      rule.error = chance_.percent(50) ? EIO : ENOSPC;
      rule.skip = chance_.below(12);
      rule.times = static_cast<uint64_t>(chance_.between(1, 4));
      faults_.push_back(world_.env.storage().add_fault(rule));
    }
  }

  Task<void> write_for_a_while() {
    while (!stop_) {
      co_await one_request();
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
      const uint64_t since = golden_.flush_begins();
      if (co_await guest_->flush()) golden_.flushed(since);
      co_return;
    }
    if (golden_.busy(offset, length)) co_return;
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
    if (!started_) co_return;
    for (uint64_t c = offset / kCluster; c <= (offset + length - 1) / kCluster; ++c) {
      tried_[c] = true;
      // A discard may have done nothing, and so need not have copied anything; and when the filter
      // is gone, the job is over.
      if (done && what != 8 && guest_->node() != source_) touched_[c] = true;
    }
  }

  // The client: pauses, resumes, speeds, drained sections, at last an end.
  Task<void> steer() {
    const int64_t turns = chance_.between(0, 12);
    for (int64_t i = 0; i < turns && !over(); ++i) {
      co_await world_.env.delay(chance_.between(0, 500'000));
      switch (chance_.below(8)) {
        case 0:
          (void)job_->user_pause();
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
          break;
        }
        case 5:
          co_await world_.jobs->settle(job_);
          break;
        default:
          co_await reopenings_.one(job_);
      }
    }
    if (plan_.cancels && !over()) {
      (void)co_await world_.jobs->cancel(job_, chance_.percent(50));
    }
    // From now on nothing holds the job back but its own errors; those end, save after a crash.
    for (int i = 0; !over(); ++i) {
      (void)job_->user_set_speed(0);
      (void)job_->user_resume();
      if (plan_.sync == BackupSync::kNone && i > 2) (void)co_await job_->user_complete();
      if (job_->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job_);
      if (!over() && !world_.env.storage().powered())
        (void)co_await world_.jobs->cancel(job_, true);
      co_await world_.env.delay(200'000);
    }
  }

  bool over() const {
    return job_->status() == JobStatus::kConcluded || job_->status() == JobStatus::kNull;
  }

  void check_source() {
    std::vector<std::byte> now(plan_.size);
    const Result<void> read = world_.run(source_->read(0, IoVector(now.data(), now.size())));
    ASSERT_TRUE(read.has_value()) << strerror_text(read.error());
    EXPECT_FALSE(golden_.first_wrong(now).has_value())
        << "the guest's disk is wrong from sector " << *golden_.first_wrong(now);
  }

  void check_end() {
    EXPECT_TRUE(world_.jobs->jobs().empty());
    EXPECT_EQ(world_.graph->find_node("s")->parents().size(), 1u);
    EXPECT_TRUE(target_->parents().empty());
    // What is left of the faults is not for the judge.
    for (const sim::SimStorage::RuleId fault : faults_) world_.env.storage().remove_fault(fault);
    check_source();
    if (!job_ || job_->failure()) return;
    if (target_->flags().cache_no_flush || chance_.percent(50)) {
      check_target(world_.env.storage().content("t").bytes());
    } else {
      // A target that was closed is safe.
      world_.run(world_.drop(*target_));
      world_.env.storage().power_off();
      check_target(world_.env.storage().crash_image(sim::CrashSubset::none()).at("t").bytes());
    }
  }

  void check_target(const std::vector<std::byte>& copy) {
    ASSERT_EQ(copy.size(), plan_.size);
    for (uint64_t sector = 0; sector < plan_.size / 512; ++sector) {
      const uint64_t cluster = sector * 512 / kCluster;
      const std::byte* bytes = copy.data() + sector * 512;
      const bool untouched = GoldenDisk::shown(bytes) == kJunk;
      bool must = true;
      bool may = true;
      if (plan_.sync == BackupSync::kNone) must = touched_[cluster], may = tried_[cluster];
      if (plan_.sync == BackupSync::kTop) must = may = top_at_instant_[cluster];
      if (!must && untouched) continue;
      ASSERT_TRUE(may && instant_->may_show(sector, bytes))
          << "sector " << sector << " shows " << GoldenDisk::shown(bytes).value_or(~0ull)
          << ", which was not there at the instant";
    }
  }

  void check_crash() {
    EXPECT_TRUE(world_.jobs->jobs().empty());
    world_.env.storage().power_off();
    if (plan_.layered) return;
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
  Plan plan_;
  GoldenDisk golden_;
  std::optional<GoldenDisk> instant_;
  test::LayerImage image_;
  std::vector<bool> top_at_instant_;
  std::vector<sim::SimStorage::RuleId> faults_;
  std::vector<bool> touched_, tried_;
  Node* source_ = nullptr;
  Node* target_ = nullptr;
  std::unique_ptr<Backend> guest_;
  std::shared_ptr<BackupJob> job_;
  test::Reopenings reopenings_;
  Gate gate_;
  bool stop_ = false;
  bool started_ = false;
  int requests_ = 0;
};

TEST(BackupSimulation, TheCopyIsTheDiskOfItsInstant) {
  Coverage coverage({});
  coverage.demand(test::Reopenings::kMarks);
  test::for_each_seed_covering(coverage, 1000,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
