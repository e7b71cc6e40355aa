// Chains of increments while guests go on writing, under errors, pauses and cancels.
//
// A full copy, then increments by either of two recipes: one bitmap that each backup clears, or a
// bitmap for each checkpoint, merged into a temporary one. Of each increment it is proven that it
// holds exactly the writes between its instants (change_history.h), and of the copies laid over one
// another that they are the disk of the last instant.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "qmp/commands/backup_commands.h"
#include "qmp/commands/bitmap_commands.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "tests/backup/instant_action.h"
#include "tests/jobs/change_history.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/jobs_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/coverage.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using schema::BitmapSyncMode;
using schema::MirrorSyncMode;
using test::ChangeHistory;
using test::Coverage;
using test::GoldenDisk;
using test::InstantAction;
using test::World;

constexpr uint64_t kSeeds = 100;
constexpr uint64_t kSector = GoldenDisk::kSector;
// What a backup copies at once when nothing asks for more.
constexpr uint64_t kLeastUnit = 64 << 10;
// In a target before the backup: no guest ever wrote it.
constexpr uint64_t kJunk = 0xEEEEEEEEEEEEEEEE;

struct Plan {
  explicit Plan(sim::SimRandom& chance)
      : qcow2(chance.percent(50)),
        size((chance.between(4, 24) * 64 + (chance.percent(40) ? chance.between(0, 63) : 0)) *
             int64_t{2} * 512),
        granularity(uint64_t{512} << chance.below(9)),
        checkpoints(chance.percent(35)),
        persistent(qcow2 && chance.percent(50)),
        faults(chance.percent(45)),
        increments(static_cast<int>(chance.between(2, 5))),
        writers(static_cast<int>(chance.between(1, 3))) {}

  bool qcow2;
  uint64_t size;
  uint64_t granularity;
  // A bitmap a checkpoint, instead of one that is cleared.
  bool checkpoints;
  bool persistent;
  bool faults;
  int increments;
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
        history_(plan_.size, std::max(kLeastUnit, plan_.granularity)),
        restored_(plan_.size / kSector, kJunk),
        commands_(Manner::kSystem),
        monitor_(world_.env, commands_, human_, MonitorOptions()),
        gate_(world_.env.executor()) {}

  void go() {
    json::Object disk{{"driver", plan_.qcow2 ? "qcow2" : "raw"},
                      {"node-name", "disk"},
                      {"file", json::Object{{"driver", "file"}, {"filename", "disk"}}}};
    if (plan_.qcow2) {
      qcow2::CreateOptions create;
      create.size = plan_.size;
      create.cluster_size = uint64_t{4096} << chance_.below(5);
      auto made = world_.run(qcow2::test::create_image(world_.env, "disk", create));
      ASSERT_TRUE(made.has_value()) << made.error().description;
    } else {
      world_.env.storage().put("disk", sim::SparseBytes(plan_.size));
    }
    guest_ = world_.guest(world_.open(std::move(disk)));
    world_.run(chain());
    world_.run(guest_->remove());
    if (!testing::Test::HasFailure()) return;
    for (const std::string& line : lines_) fmt::print("  {}\n", line);
  }

 private:
  struct Job {
    std::string target;
    uint64_t instant = 0;
    BitmapSyncMode mode = BitmapSyncMode::kOnSuccess;
    // Since which checkpoint.
    int since = 0;
    bool succeeded = false;
    GoldenDisk then;
  };

  Task<void> chain() {
    for (int i = 0; i < plan_.writers; ++i) gate_.spawn(be_guest());
    co_await world_.env.delay(chance_.between(0, 3'000'000));
    bool whole = false;
    for (int number = 0; !testing::Test::HasFailure(); ++number) {
      co_await world_.env.delay(chance_.between(100'000, 4'000'000));
      // The first and the last are let alone.
      const bool last = number >= plan_.increments && whole;
      Job job = make_job(number, !whole);
      co_await backup(job, !whole, whole && !last);
      if (!whole) {
        whole = job.succeeded;
        history_.succeeded(job.instant);
        EXPECT_TRUE(whole);
      }
      if (last) break;
    }
    stop_ = true;
    co_await gate_.close();
  }

  Job make_job(int number, bool full) {
    Job job{.target = fmt::format("target{}", number), .then = golden_};
    sim::SparseBytes junk(plan_.size);
    std::vector<std::byte> bytes(plan_.size);
    GoldenDisk::fill(bytes, kJunk);
    junk.write(0, bytes);
    world_.file(job.target, std::move(junk));
    if (!full && !plan_.checkpoints && chance_.percent(40)) job.mode = BitmapSyncMode::kAlways;
    if (!full && plan_.checkpoints) {
      job.mode = BitmapSyncMode::kNever;
      job.since = static_cast<int>(chance_.below(static_cast<uint64_t>(last_good_) + 1));
    }
    return job;
  }

  // The first backup clears nothing: its bitmap is born in the same transaction.
  Task<void> backup(Job& job, bool full, bool disturbed) {
    schema::BlockdevBackup arguments;
    arguments.job_id = job.target;
    arguments.device = "disk";
    arguments.target = job.target;
    arguments.auto_dismiss = false;
    arguments.sync = full ? MirrorSyncMode::kFull : MirrorSyncMode::kBitmap;
    if (!full) {
      arguments.bitmap = plan_.checkpoints ? "temporary" : "changes";
      if (job.mode == BitmapSyncMode::kOnSuccess && chance_.percent(50)) {
        arguments.sync = MirrorSyncMode::kIncremental;
      } else {
        arguments.bitmap_mode = job.mode;
      }
    }
    Actions actions = bitmaps_of(job, full);
    actions.push_back(blockdev_backup_action(std::move(arguments)));
    actions.push_back(std::make_unique<InstantAction>([&] {
      job.instant = history_.instant();
      job.then = golden_;
      checkpoints_.push_back(job.instant);
      return true;
    }));
    if (disturbed && plan_.faults) add_fault(job);
    const Expected<void> begun = co_await transaction(std::move(actions));
    EXPECT_TRUE(begun.has_value()) << begun.error().description;
    if (!begun) co_return;
    const auto running = std::dynamic_pointer_cast<BackupJob>(world_.jobs->find(job.target));
    if (disturbed) co_await disturb(running);
    co_await world_.wait_for_end(running);
    for (const auto fault : faults_) world_.env.storage().remove_fault(fault);
    faults_.clear();
    job.succeeded = !running->failure();
    EXPECT_TRUE(disturbed || job.succeeded);
    EXPECT_TRUE((co_await world_.jobs->dismiss(running)).has_value());
    judge(job, full);
    if (!full && plan_.checkpoints) co_await remove("temporary");
  }

  Actions bitmaps_of(const Job& job, bool full) {
    Actions actions;
    if (full && !plan_.checkpoints) actions.push_back(add("changes", true));
    if (!plan_.checkpoints) return actions;
    if (!full) {
      actions.push_back(add("temporary", false));
      schema::BlockDirtyBitmapMerge merge;
      merge.node = "disk";
      merge.target = "temporary";
      for (std::size_t i = job.since; i < checkpoints_.size(); ++i) {
        merge.bitmaps.emplace_back().u = checkpoint(i);
      }
      coverage_.hit_if(merge.bitmaps.size() > 1, "several checkpoints in one increment");
      actions.push_back(bitmap_merge_action(std::move(merge)));
      actions.push_back(bitmap_enable_action(
          {.node = "disk", .name = checkpoint(checkpoints_.size() - 1)}, false));
    }
    actions.push_back(add(checkpoint(checkpoints_.size()), true));
    return actions;
  }
  static std::string checkpoint(std::size_t number) { return fmt::format("checkpoint{}", number); }

  std::unique_ptr<Action> add(std::string name, bool enabled) {
    schema::BlockDirtyBitmapAdd arguments;
    arguments.node = "disk";
    arguments.name = std::move(name);
    arguments.granularity = static_cast<uint32_t>(plan_.granularity);
    arguments.persistent = plan_.persistent && enabled;
    arguments.disabled = !enabled;
    return bitmap_add_action(std::move(arguments));
  }
  Task<void> remove(std::string name) {
    Actions actions;
    actions.push_back(bitmap_remove_action({.node = "disk", .name = std::move(name)}));
    EXPECT_TRUE((co_await transaction(std::move(actions))).has_value());
  }
  Task<Expected<void>> transaction(Actions actions) {
    CommandContext context(monitor_, nullptr, nullptr);
    co_return co_await run_transaction(context, *world_.graph, *world_.jobs, std::move(actions));
  }

  void add_fault(const Job& job) {
    sim::FaultRule rule;
    const bool source = chance_.percent(30);
    rule.path = source ? "disk" : job.target;
    rule.requests = source ? unsigned{sim::kSimRead} : unsigned{sim::kSimChanges};
    rule.skip = chance_.below(8);
    faults_.push_back(world_.env.storage().add_fault(rule));
  }

  Task<void> disturb(std::shared_ptr<BackupJob> job) {
    const bool cancels = chance_.percent(20);
    for (int64_t turns = chance_.between(0, 4); turns > 0; --turns) {
      co_await world_.env.delay(chance_.between(0, 400'000));
      if (job->status() != JobStatus::kRunning) continue;
      if (chance_.percent(50)) (void)job->user_set_speed(chance_.between(0, 300) * 1'000'000);
      if (job->user_pause()) {
        coverage_.hit("pause");
        co_await world_.env.delay(chance_.between(0, 400'000));
        (void)job->user_resume();
      }
    }
    (void)job->user_set_speed(0);
    if (!cancels) co_return;
    if ((co_await world_.jobs->cancel(job, chance_.percent(50))).has_value()) {
      coverage_.hit("cancel");
    }
  }

  // --- the judge

  void judge(const Job& job, bool full) {
    std::vector<std::byte> content(plan_.size);
    world_.env.storage().content(job.target).read(0, content);
    const ChangeHistory::Copied copied = lay_over(content, job, full);
    lines_.push_back(fmt::format("{}: instant {}, mode {}, since {}, {}", job.target, job.instant,
                                 static_cast<int>(job.mode), job.since,
                                 job.succeeded ? "succeeded" : "failed"));
    if (!full) {
      const ChangeHistory::Verdict verdict = history_for(job).judge(job.instant, copied);
      EXPECT_EQ(verdict.for_nothing, "") << job.target;
      // What was not copied before it failed is not lost yet.
      if (job.succeeded) EXPECT_EQ(verdict.lost, "") << job.target;
    }
    account(job, copied, full);
    if (!job.succeeded) return;
    for (uint64_t s = 0; s < restored_.size(); ++s) {
      std::vector<std::byte> sector(kSector);
      GoldenDisk::fill(sector, restored_[s]);
      if (job.then.may_show(s, sector.data())) continue;
      ADD_FAILURE() << job.target << " laid over those before it shows " << restored_[s]
                    << " in sector " << s;
      return;
    }
  }

  // With checkpoints, what an increment owes began at the one that it was asked for.
  ChangeHistory history_for(const Job& job) const {
    ChangeHistory history = history_;
    if (plan_.checkpoints) history.succeeded(checkpoints_[job.since]);
    return history;
  }

  ChangeHistory::Copied lay_over(const std::vector<std::byte>& content, const Job& job, bool full) {
    ChangeHistory::Copied copied;
    copied.part.assign(history_.granules(), false);
    copied.whole.assign(history_.granules(), true);
    for (uint64_t s = 0; s < restored_.size(); ++s) {
      const uint64_t granule = s * kSector / history_.granule();
      const auto number = GoldenDisk::shown(content.data() + s * kSector);
      if (number == kJunk) {
        copied.whole[granule] = false;
        continue;
      }
      copied.part[granule] = true;
      EXPECT_TRUE(number.has_value()) << job.target << " is torn in sector " << s;
      restored_[s] = number.value_or(kJunk);
    }
    coverage_.hit_if(!full && std::ranges::count(copied.part, true) == 0, "nothing had changed");
    return copied;
  }

  void account(const Job& job, const ChangeHistory::Copied& copied, bool full) {
    if (job.succeeded) last_good_ = static_cast<int>(checkpoints_.size()) - 1;
    if (full || plan_.checkpoints) {
      coverage_.hit_if(!full, job.succeeded ? "a checkpoint's increment" : "a checkpoint's failed");
      return;
    }
    const bool always = job.mode == BitmapSyncMode::kAlways;
    if (job.succeeded) {
      history_.succeeded(job.instant);
      coverage_.hit(always ? "always" : "on success");
    } else {
      if (always) history_.failed(job.instant, copied);
      coverage_.hit(always ? "always, failed" : "on success, failed");
    }
  }

  // --- the guest

  Task<void> be_guest() {
    while (!stop_) {
      co_await one_request();
      co_await world_.env.delay(chance_.between(0, 400'000));
    }
  }

  Task<void> one_request() {
    const uint64_t sectors = plan_.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t count =
        1 + chance_.below(std::min<uint64_t>(chance_.percent(80) ? 8 : 200, sectors - first));
    const uint64_t offset = first * kSector, length = count * kSector;
    const uint64_t what = chance_.below(10);
    if (what == 0) {
      EXPECT_TRUE(co_await guest_->flush());
      co_return;
    }
    if (golden_.busy(offset, length)) co_return;
    const uint64_t number = what < 8 ? golden_.next_number() : 0;
    golden_.begin(offset, length, number);
    const std::size_t change = history_.begin(offset, length);
    const Result<void> done = co_await send(offset, length, number);
    history_.end(change, done.has_value());
    // Before a write is carried out, the disk's past is read: that may fail.
    EXPECT_TRUE(done || plan_.faults);
    golden_.end(offset, length, number, done.has_value());
  }
  Task<Result<void>> send(uint64_t offset, uint64_t length, uint64_t number) {
    if (number == 0) {
      co_return co_await guest_->zero(offset, length,
                                      RequestFlags().with_may_unmap(chance_.percent(50)));
    }
    Buffer buffer(length);
    GoldenDisk::fill(buffer.span(), number);
    co_return co_await guest_->write(offset, buffer.io());
  }

  World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  const Plan plan_;
  GoldenDisk golden_;
  ChangeHistory history_;
  // The copies, laid over one another.
  std::vector<uint64_t> restored_;
  // Instants, by number.
  std::vector<uint64_t> checkpoints_;
  int last_good_ = 0;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;
  Gate gate_;
  std::unique_ptr<Backend> guest_;
  std::vector<sim::SimStorage::RuleId> faults_;
  std::vector<std::string> lines_;
  bool stop_ = false;
};

TEST(Increments, AreExactlyTheWritesBetweenTheirInstants) {
  Coverage coverage({"always", "always, failed", "on success", "on success, failed",
                     "a checkpoint's increment", "a checkpoint's failed",
                     "several checkpoints in one increment", "nothing had changed", "pause",
                     "cancel"});
  test::for_each_seed_covering(coverage, kSeeds,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
