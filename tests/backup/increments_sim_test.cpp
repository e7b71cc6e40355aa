// Chains of increments while guests go on writing, under errors, pauses and cancels.
//
// One disk or two, copied in one transaction whose copies count alone or together. A full copy,
// then increments by either of two recipes: one bitmap that each backup clears, or a bitmap for
// each checkpoint, merged into a temporary one. Of each increment it is proven that it holds
// exactly the writes between its instants (change_history.h), and of the copies laid over one
// another that they are the disk of the last instant. Bitmaps that are kept go through restarts.
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
        granularity(uint64_t{512} << chance.below(9)),
        checkpoints(chance.percent(35)),
        persistent(qcow2 && chance.percent(50)),
        faults(chance.percent(45)),
        disks(chance.percent(60) ? 1 : 2),
        grouped(disks > 1 && chance.percent(70)),
        increments(static_cast<int>(chance.between(2, 5))),
        writers(static_cast<int>(chance.between(1, 3))) {}

  bool qcow2;
  uint64_t granularity;
  // A bitmap a checkpoint, instead of one that is cleared.
  bool checkpoints;
  bool persistent;
  bool faults;
  // All are copied in one transaction.
  std::size_t disks;
  // None of its copies counts unless all do.
  bool grouped;
  int increments;
  int writers;
};

// A disk, its guest, and what is known of its copies.
struct Disk {
  Disk(std::size_t number, uint64_t disk_size, const Plan& plan)
      : name(fmt::format("disk{}", number)),
        size(disk_size),
        golden(size),
        history(size, std::max(kLeastUnit, plan.granularity)),
        restored(size / kSector, kJunk) {}

  static uint64_t draw_size(sim::SimRandom& chance) {
    const int64_t odd = chance.percent(40) ? chance.between(0, 63) : 0;
    return static_cast<uint64_t>((chance.between(4, 24) * 64 + odd) * 2 * 512);
  }

  const std::string name;
  const uint64_t size;
  GoldenDisk golden;
  ChangeHistory history;
  // The copies, laid over one another.
  std::vector<uint64_t> restored;
  // Instants, by number.
  std::vector<uint64_t> checkpoints;
  int last_good = 0;
  std::unique_ptr<Backend> guest;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        plan_(chance_),
        commands_(Manner::kSystem),
        monitor_(world_.env, commands_, human_, MonitorOptions()) {}

  void go() {
    for (std::size_t i = 0; i < plan_.disks; ++i) {
      disks_.push_back(std::make_unique<Disk>(i, Disk::draw_size(chance_), plan_));
      make_image(*disks_.back());
      insert(*disks_.back());
    }
    world_.run(chain());
    for (const auto& disk : disks_) world_.run(disk->guest->remove());
    if (!testing::Test::HasFailure()) return;
    for (const std::string& line : lines_) fmt::print("  {}\n", line);
  }

 private:
  struct Job {
    Disk& disk;
    std::string target;
    uint64_t instant = 0;
    BitmapSyncMode mode = BitmapSyncMode::kOnSuccess;
    // Since which checkpoint.
    int since = 0;
    bool succeeded = false;
    GoldenDisk then;
    std::shared_ptr<BackupJob> running;
  };

  void make_image(const Disk& disk) {
    if (!plan_.qcow2) return world_.env.storage().put(disk.name, sim::SparseBytes(disk.size));
    qcow2::CreateOptions create;
    create.size = disk.size;
    create.cluster_size = uint64_t{4096} << chance_.below(5);
    auto made = world_.run(qcow2::test::create_image(world_.env, disk.name, create));
    ASSERT_TRUE(made.has_value()) << made.error().description;
  }

  void insert(Disk& disk) {
    disk.guest = world_.guest(
        world_.open({{"driver", plan_.qcow2 ? "qcow2" : "raw"},
                     {"node-name", disk.name},
                     {"file", json::Object{{"driver", "file"}, {"filename", disk.name}}}}));
  }

  Task<void> chain() {
    start_guests();
    co_await world_.env.delay(chance_.between(0, 3'000'000));
    for (int number = 0; number <= plan_.increments + 1; ++number) {
      co_await world_.env.delay(chance_.between(100'000, 4'000'000));
      // The first and the last are let alone.
      const bool last = number > plan_.increments;
      co_await round(number, number == 0, number > 0 && !last);
      if (testing::Test::HasFailure()) break;
      if (plan_.persistent && !last && chance_.percent(30)) co_await restart();
    }
    co_await stop_guests();
  }

  // The program ends and is started again.
  Task<void> restart() {
    co_await stop_guests();
    for (const auto& disk : disks_) {
      co_await disk->guest->remove();
      co_await world_.drop(*world_.graph->find_node(disk->name));
      insert(*disk);
    }
    coverage_.hit("restart");
    start_guests();
  }

  // A copy of each disk.
  Task<void> round(int number, bool full, bool disturbed) {
    std::vector<Job> jobs;
    for (const auto& disk : disks_) jobs.push_back(make_job(*disk, number, full));
    if (disturbed && plan_.faults) add_fault(jobs[chance_.below(jobs.size())]);
    const Expected<void> begun = co_await begin(jobs, full);
    EXPECT_TRUE(begun.has_value()) << begun.error().description;
    if (!begun) co_return;
    for (Job& job : jobs) {
      job.running = std::dynamic_pointer_cast<BackupJob>(world_.jobs->find(job.target));
    }
    if (disturbed) co_await disturb(jobs[chance_.below(jobs.size())].running);
    for (Job& job : jobs) {
      co_await world_.wait_for_end(job.running);
      job.succeeded = !job.running->failure();
      EXPECT_TRUE(disturbed || job.succeeded);
    }
    for (const auto fault : faults_) world_.env.storage().remove_fault(fault);
    faults_.clear();
    judge_group(jobs);
    for (Job& job : jobs) {
      EXPECT_TRUE((co_await world_.jobs->dismiss(job.running)).has_value());
      judge(job, full);
      if (!full && plan_.checkpoints) co_await remove(job.disk, "temporary");
    }
  }

  Job make_job(Disk& disk, int number, bool full) {
    Job job{.disk = disk,
            .target = fmt::format("{}copy{}", disk.name, number),
            .then = disk.golden,
            .running = nullptr};
    sim::SparseBytes junk(disk.size);
    std::vector<std::byte> bytes(disk.size);
    GoldenDisk::fill(bytes, kJunk);
    junk.write(0, bytes);
    world_.file(job.target, std::move(junk));
    if (!full && !plan_.checkpoints && chance_.percent(40)) job.mode = BitmapSyncMode::kAlways;
    if (!full && plan_.checkpoints) {
      job.mode = BitmapSyncMode::kNever;
      job.since = static_cast<int>(chance_.below(static_cast<uint64_t>(disk.last_good) + 1));
    }
    return job;
  }

  // The first backup clears nothing: its bitmap is born in the same transaction.
  Task<Expected<void>> begin(std::vector<Job>& jobs, bool full) {
    Actions actions;
    for (const Job& job : jobs) {
      for (auto& action : bitmaps_of(job, full)) actions.push_back(std::move(action));
      actions.push_back(blockdev_backup_action(arguments_of(job, full)));
    }
    actions.push_back(std::make_unique<InstantAction>([&] {
      for (Job& job : jobs) {
        job.instant = job.disk.history.instant();
        job.then = job.disk.golden;
        job.disk.checkpoints.push_back(job.instant);
      }
      return true;
    }));
    co_return co_await transaction(std::move(actions), plan_.grouped);
  }

  schema::BlockdevBackup arguments_of(const Job& job, bool full) {
    schema::BlockdevBackup arguments;
    arguments.job_id = job.target;
    arguments.device = job.disk.name;
    arguments.target = job.target;
    arguments.auto_dismiss = false;
    arguments.sync = full ? MirrorSyncMode::kFull : MirrorSyncMode::kBitmap;
    if (full) return arguments;
    arguments.bitmap = plan_.checkpoints ? "temporary" : "changes";
    if (job.mode == BitmapSyncMode::kOnSuccess && chance_.percent(50)) {
      arguments.sync = MirrorSyncMode::kIncremental;
    } else {
      arguments.bitmap_mode = job.mode;
    }
    return arguments;
  }

  Actions bitmaps_of(const Job& job, bool full) {
    const std::string& node = job.disk.name;
    const std::vector<uint64_t>& checkpoints = job.disk.checkpoints;
    Actions actions;
    if (full && !plan_.checkpoints) actions.push_back(add(node, "changes", true));
    if (!plan_.checkpoints) return actions;
    if (!full) {
      actions.push_back(add(node, "temporary", false));
      schema::BlockDirtyBitmapMerge merge;
      merge.node = node;
      merge.target = "temporary";
      for (std::size_t i = job.since; i < checkpoints.size(); ++i) {
        merge.bitmaps.emplace_back().u = checkpoint(i);
      }
      coverage_.hit_if(merge.bitmaps.size() > 1, "several checkpoints in one increment");
      actions.push_back(bitmap_merge_action(std::move(merge)));
      actions.push_back(
          bitmap_enable_action({.node = node, .name = checkpoint(checkpoints.size() - 1)}, false));
    }
    actions.push_back(add(node, checkpoint(checkpoints.size()), true));
    return actions;
  }
  static std::string checkpoint(std::size_t number) { return fmt::format("checkpoint{}", number); }

  std::unique_ptr<Action> add(std::string node, std::string name, bool enabled) {
    schema::BlockDirtyBitmapAdd arguments;
    arguments.node = std::move(node);
    arguments.name = std::move(name);
    arguments.granularity = static_cast<uint32_t>(plan_.granularity);
    arguments.persistent = plan_.persistent && enabled;
    arguments.disabled = !enabled;
    return bitmap_add_action(std::move(arguments));
  }
  Task<void> remove(const Disk& disk, std::string name) {
    Actions actions;
    actions.push_back(bitmap_remove_action({.node = disk.name, .name = std::move(name)}));
    EXPECT_TRUE((co_await transaction(std::move(actions))).has_value());
  }
  Task<Expected<void>> transaction(Actions actions, bool grouped = false) {
    CommandContext context(monitor_, nullptr, nullptr);
    co_return co_await run_transaction(context, *world_.graph, *world_.jobs, std::move(actions),
                                       grouped);
  }

  void add_fault(const Job& job) {
    sim::FaultRule rule;
    const bool source = chance_.percent(30);
    rule.path = source ? job.disk.name : job.target;
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

  void judge_group(const std::vector<Job>& jobs) {
    const auto good = std::ranges::count_if(jobs, &Job::succeeded);
    const bool all = good == static_cast<std::ptrdiff_t>(jobs.size());
    coverage_.hit_if(jobs.size() > 1 && !plan_.grouped && good > 0 && !all, "one of two failed");
    if (!plan_.grouped) return;
    EXPECT_TRUE(all || good == 0) << "one of a group counts, another does not";
    coverage_.hit(all ? "a group succeeded" : "a group failed");
  }

  void judge(const Job& job, bool full) {
    std::vector<std::byte> content(job.disk.size);
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
    const std::vector<uint64_t>& restored = job.disk.restored;
    for (uint64_t s = 0; s < restored.size(); ++s) {
      std::vector<std::byte> sector(kSector);
      GoldenDisk::fill(sector, restored[s]);
      if (job.then.may_show(s, sector.data())) continue;
      ADD_FAILURE() << job.target << " laid over those before it shows " << restored[s]
                    << " in sector " << s;
      return;
    }
  }

  // With checkpoints, what an increment owes began at the one that it was asked for.
  ChangeHistory history_for(const Job& job) const {
    ChangeHistory history = job.disk.history;
    if (plan_.checkpoints) history.succeeded(job.disk.checkpoints[job.since]);
    return history;
  }

  ChangeHistory::Copied lay_over(const std::vector<std::byte>& content, const Job& job, bool full) {
    const ChangeHistory& history = job.disk.history;
    std::vector<uint64_t>& restored = job.disk.restored;
    ChangeHistory::Copied copied;
    copied.part.assign(history.granules(), false);
    copied.whole.assign(history.granules(), true);
    for (uint64_t s = 0; s < restored.size(); ++s) {
      const uint64_t granule = s * kSector / history.granule();
      const auto number = GoldenDisk::shown(content.data() + s * kSector);
      if (number == kJunk) {
        copied.whole[granule] = false;
        continue;
      }
      copied.part[granule] = true;
      EXPECT_TRUE(number.has_value()) << job.target << " is torn in sector " << s;
      restored[s] = number.value_or(kJunk);
    }
    coverage_.hit_if(!full && std::ranges::count(copied.part, true) == 0, "nothing had changed");
    return copied;
  }

  void account(const Job& job, const ChangeHistory::Copied& copied, bool full) {
    Disk& disk = job.disk;
    if (job.succeeded) disk.last_good = static_cast<int>(disk.checkpoints.size()) - 1;
    if (full) disk.history.succeeded(job.instant);
    if (full || plan_.checkpoints) {
      coverage_.hit_if(!full, job.succeeded ? "a checkpoint's increment" : "a checkpoint's failed");
      return;
    }
    const bool always = job.mode == BitmapSyncMode::kAlways;
    if (job.succeeded) {
      disk.history.succeeded(job.instant);
      coverage_.hit(always ? "always" : "on success");
    } else {
      if (always) disk.history.failed(job.instant, copied);
      coverage_.hit(always ? "always, failed" : "on success, failed");
    }
  }

  // --- the guests

  void start_guests() {
    stop_ = false;
    gate_.emplace(world_.env.executor());
    for (const auto& disk : disks_) {
      for (int i = 0; i < plan_.writers; ++i) gate_->spawn(be_guest(*disk));
    }
  }
  Task<void> stop_guests() {
    stop_ = true;
    co_await gate_->close();
  }

  Task<void> be_guest(Disk& disk) {
    while (!stop_) {
      co_await one_request(disk);
      co_await world_.env.delay(chance_.between(0, 400'000));
    }
  }

  Task<void> one_request(Disk& disk) {
    const uint64_t sectors = disk.size / kSector;
    const uint64_t first = chance_.below(sectors);
    const uint64_t count =
        1 + chance_.below(std::min<uint64_t>(chance_.percent(80) ? 8 : 200, sectors - first));
    const uint64_t offset = first * kSector, length = count * kSector;
    const uint64_t what = chance_.below(10);
    if (what == 0) {
      EXPECT_TRUE(co_await disk.guest->flush());
      co_return;
    }
    if (disk.golden.busy(offset, length)) co_return;
    const uint64_t number = what < 8 ? disk.golden.next_number() : 0;
    disk.golden.begin(offset, length, number);
    const std::size_t change = disk.history.begin(offset, length);
    const Result<void> done = co_await send(disk, offset, length, number);
    disk.history.end(change, done.has_value());
    // Before a write is carried out, the disk's past is read: that may fail.
    EXPECT_TRUE(done || plan_.faults);
    disk.golden.end(offset, length, number, done.has_value());
  }
  Task<Result<void>> send(Disk& disk, uint64_t offset, uint64_t length, uint64_t number) {
    if (number == 0) {
      co_return co_await disk.guest->zero(offset, length,
                                          RequestFlags().with_may_unmap(chance_.percent(50)));
    }
    Buffer buffer(length);
    GoldenDisk::fill(buffer.span(), number);
    co_return co_await disk.guest->write(offset, buffer.io());
  }

  World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  const Plan plan_;
  std::vector<std::unique_ptr<Disk>> disks_;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;
  std::optional<Gate> gate_;
  std::vector<sim::SimStorage::RuleId> faults_;
  std::vector<std::string> lines_;
  bool stop_ = false;
};

TEST(Increments, AreExactlyTheWritesBetweenTheirInstants) {
  Coverage coverage(
      {"always", "always, failed", "on success", "on success, failed", "a checkpoint's increment",
       "a checkpoint's failed", "several checkpoints in one increment", "nothing had changed",
       "pause", "cancel", "one of two failed", "a group succeeded", "a group failed", "restart"});
  test::for_each_seed_covering(coverage, kSeeds,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
