// Backups of real images against guests that go on writing, under every fault that the simulator
// knows, judged by a golden model.
//
// Each seed draws one or two disks (disk_plan_fixture.h), what the client does, what fails, and
// where the power is cut. The transaction is the one that the command runs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/graph/drain.h"
#include "qmp/commands/backup_commands.h"
#include "qmp/commands/transaction.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "tests/backup/instant_action.h"
#include "tests/backup/simulated_disk_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::Coverage;
using test::InstantAction;
using test::SimulatedDisk;
using test::TargetBacking;
using test::World;

constexpr uint64_t kSeeds = 2400;

// What happens besides the backup itself.
struct Events {
  explicit Events(sim::SimRandom& chance)
      : disks(chance.percent(30) ? 2 : 1),
        grouped(disks > 1 && chance.percent(60)),
        refused_first(chance.percent(8)),
        faults(chance.percent(40)),
        full(chance.percent(12)),
        crash(chance.percent(30)),
        crash_later(!crash && chance.percent(25)),
        cancels(chance.percent(15)),
        writers(static_cast<int>(chance.between(1, 3))) {}

  std::string describe() const {
    return fmt::format("{}{}{}{}{}{}{}", grouped ? "grouped, " : "",
                       refused_first ? "refused first, " : "", faults ? "faults, " : "",
                       full ? "full, " : "", crash ? "crash, " : "",
                       crash_later ? "crash later, " : "", cancels ? "cancel" : "");
  }

  int disks;
  bool grouped;
  // A transaction that fails at its last action comes before.
  bool refused_first;
  bool faults;
  bool full;
  // The power is cut while the job runs; after it, when the target was flushed.
  bool crash;
  bool crash_later;
  bool cancels;
  int writers;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Coverage& coverage)
      : world_(seed),
        chance_(world_.env.chance()),
        coverage_(coverage),
        events_(chance_),
        commands_(Manner::kSystem),
        monitor_(world_.env, commands_, human_, MonitorOptions()),
        gate_(world_.env.executor()) {}

  void go() {
    for (int i = 0; i < events_.disks; ++i) {
      disks_.push_back(std::make_unique<SimulatedDisk>(world_, i, coverage_));
      disks_.back()->make();
      if (testing::Test::HasFatalFailure()) return;
    }
    world_.run(scenario());
    read_events();
    judge();
    if (!testing::Test::HasFailure()) return;
    fmt::print("{}\n", events_.describe());
    for (const auto& disk : disks_) {
      fmt::print("{}: {}\n", disk->job_id(), disk->plan().describe());
    }
    for (const std::string& line : world_.events.lines) fmt::print("  {}\n", line);
  }

 private:
  static bool over(const Job& job) {
    return job.status() == JobStatus::kConcluded || job.status() == JobStatus::kNull;
  }
  sim::SimStorage& storage() { return world_.env.storage(); }

  Task<void> scenario() {
    for (const auto& disk : disks_) {
      for (int i = 0; i < events_.writers; ++i) gate_.spawn(disk->be_guest());
      gate_.spawn(disk->be_reader());
    }
    co_await world_.env.delay(chance_.between(0, 2'000'000));
    if (events_.refused_first) {
      EXPECT_FALSE((co_await transaction(true)).has_value());
      EXPECT_TRUE(world_.jobs->jobs().empty());
      for (const auto& disk : disks_) EXPECT_EQ(disk->source().parents().size(), parents(*disk));
      coverage_.hit("transaction undone");
    }
    const Expected<void> begun = co_await transaction(false);
    EXPECT_TRUE(begun.has_value()) << begun.error().description;
    if (begun) {
      for (const auto& disk : disks_) gate_.spawn(steer(*disk));
      for (const auto& disk : disks_) co_await world_.wait_for_end(disk->job());
      co_await after_the_jobs();
    }
    for (const auto& disk : disks_) disk->stop();
    co_await gate_.close();
  }

  // The guest, and a target that stands on the disk.
  static std::size_t parents(const SimulatedDisk& disk) {
    return disk.plan().target_backing == TargetBacking::kSource ? 2 : 1;
  }

  Task<Expected<void>> transaction(bool refuse) {
    Actions actions;
    for (const auto& disk : disks_) {
      schema::BlockdevBackup job = random_job(chance_, disk->plan());
      job.device = disk->source_name();
      job.target = disk->target_name();
      job.job_id = disk->job_id();
      coverage_.hit_if(job.speed.has_value(), "speed limit");
      policies_[disk->job_id()] = {job.on_source_error, job.on_target_error};
      actions.push_back(blockdev_backup_action(std::move(job)));
    }
    actions.push_back(std::make_unique<InstantAction>([this, refuse] {
      if (!refuse) instant();
      return !refuse;
    }));
    CommandContext context(monitor_, nullptr, nullptr);
    return run(std::move(context), std::move(actions));
  }
  Task<Expected<void>> run(CommandContext context, Actions actions) {
    co_return co_await run_transaction(context, *world_.graph, *world_.jobs, std::move(actions),
                                       events_.grouped);
  }

  void instant() {
    for (const auto& disk : disks_) {
      auto job = std::dynamic_pointer_cast<BackupJob>(world_.jobs->find(disk->job_id()));
      ASSERT_NE(job, nullptr);
      disk->take_instant(std::move(job));
      if (events_.faults) disk->add_faults();
      if (events_.full) disk->fill_up();
    }
    if (events_.crash) {
      constexpr uint64_t kScales[] = {20, 100, 400};
      cut_within(kScales[chance_.below(3)]);
    }
  }
  void cut_within(uint64_t operations) {
    storage().power_off_at(storage().operations() + 1 + chance_.below(operations));
  }

  // --- the client

  Task<void> steer(SimulatedDisk& disk) {
    const std::shared_ptr<BackupJob> job = disk.job();
    for (int64_t turns = chance_.between(0, 12); turns > 0 && !over(*job); --turns) {
      co_await world_.env.delay(chance_.between(0, 500'000));
      co_await one_verb(disk, *job);
    }
    if (events_.cancels && !over(*job)) {
      if ((co_await world_.jobs->cancel(job, chance_.percent(50))).has_value()) cancelled_ = true;
    }
    // From now on nothing holds the job back but its own errors; those end, save after a crash.
    for (int i = 0; !over(*job); ++i) {
      if (i > 1) disk.make_room();
      (void)job->user_set_speed(0);
      (void)job->user_resume();
      if (disk.plan().sync == BackupSync::kNone && i > 2) (void)co_await job->user_complete();
      if (job->status() == JobStatus::kPending) (void)co_await world_.jobs->finalize(job);
      if (!over(*job) && !storage().powered()) {
        coverage_.hit("power cut while a job ran");
        (void)co_await world_.jobs->cancel(job, true);
      }
      // A file whose flush failed stays broken, however often the job tries.
      const bool broken = disk.flush_failed('s') || disk.flush_failed('t');
      if (broken && i > 10 && !over(*job)) {
        if ((co_await world_.jobs->cancel(job, true)).has_value()) cancelled_ = true;
      }
      co_await world_.env.delay(200'000);
    }
    if (job->status() == JobStatus::kConcluded) {
      EXPECT_TRUE((co_await world_.jobs->dismiss(job)).has_value());
    }
  }

  Task<void> one_verb(SimulatedDisk& disk, BackupJob& job) {
    switch (chance_.below(8)) {
      case 0:
      case 1:
        if (job.user_pause()) {
          co_await world_.jobs->settle(disk.job());
          coverage_.hit_if(job.status() == JobStatus::kPaused, "pause");
        }
        break;
      case 2:
        if (job.user_resume()) coverage_.hit("resume");
        break;
      case 3:
        if (job.user_set_speed(chance_.between(0, 300) * 1'000'000)) coverage_.hit("set-speed");
        break;
      case 4: {
        DrainedSection drained =
            co_await drain(chance_.percent(50) ? disk.source() : disk.target());
        EXPECT_FALSE(job.busy());
        co_await world_.env.delay(chance_.between(0, 300'000));
        coverage_.hit("drained section");
        break;
      }
      case 5:
        disk.make_room();
        break;
      case 6:
        co_await world_.jobs->settle(disk.job());
        break;
      case 7:
        if (co_await disk.flush_target())
          coverage_.hit("flush of the target while the job went on");
        break;
    }
  }

  // A copy that was flushed survives what comes after.
  Task<void> after_the_jobs() {
    if (!events_.crash_later) co_return;
    for (const auto& disk : disks_) disk->end_faults();
    bool flushed = true;
    for (const auto& disk : disks_) {
      flushed = co_await disk->flush_target() && flushed;
    }
    flushed_ = flushed && storage().powered();
    cut_within(300);
    for (int i = 0; i < 20 && storage().powered(); ++i) co_await world_.env.delay(100'000);
  }

  // --- the end

  // What the events say against what was asked for.
  void read_events() {
    for (const auto& disk : disks_) {
      const std::string id = disk->job_id();
      bool reported = false, stopped = false, ignored = false, pauses_next = false;
      for (const std::string& line : world_.events.lines) {
        if (pauses_next && line.starts_with(id + " ")) {
          EXPECT_TRUE(line.ends_with(" paused") || cancelled_ || !storage().powered()) << line;
          pauses_next = false;
        }
        for (const bool is_read : {true, false}) {
          const std::string head =
              fmt::format("BLOCK_JOB_ERROR {} {} ", id, is_read ? "read" : "write");
          if (!line.starts_with(head)) continue;
          const std::string action = line.substr(head.size());
          const auto& [source, target] = policies_.at(id);
          EXPECT_TRUE(allowed(is_read ? source : target, action)) << line;
          reported |= action == "report";
          stopped |= pauses_next = action == "stop";
          ignored |= action == "ignore";
          coverage_.hit(is_read ? "error of the source's read" : "error of the target's write");
        }
      }
      const Job& job = *disk->job();
      coverage_.hit_if(ignored && !job.failure(), "error ignored, job completed");
      coverage_.hit_if(stopped && !job.failure(), "error stopped the job, resumed, completed");
      coverage_.hit_if(reported, "error reported, job failed");
      EXPECT_FALSE(reported && !job.failure());
      // What top looks up before it copies has no policy.
      const bool may_fail = reported || cancelled_ || events_.grouped || !storage().powered() ||
                            disk->plan().sync == BackupSync::kTop;
      EXPECT_TRUE(may_fail || !job.failure()) << job.failure()->text;
      coverage_.hit_if(disk->was_full() && !job.failure(), "full target, completed with new room");
    }
  }
  static bool allowed(const std::optional<schema::BlockdevOnError>& policy,
                      const std::string& action) {
    switch (policy.value_or(schema::BlockdevOnError::kReport)) {
      case schema::BlockdevOnError::kReport:
        return action == "report";
      case schema::BlockdevOnError::kIgnore:
        return action == "ignore";
      case schema::BlockdevOnError::kStop:
        return action == "stop";
      case schema::BlockdevOnError::kEnospc:
      case schema::BlockdevOnError::kAuto:
        return action == "stop" || action == "report";
    }
    return false;
  }

  void judge() {
    if (testing::Test::HasFailure()) return end();
    EXPECT_TRUE(world_.jobs->jobs().empty());
    const bool crash = events_.crash || events_.crash_later;
    bool faults = events_.full;
    for (const auto& disk : disks_) {
      faults = faults || disk->met_faults();
      EXPECT_EQ(disk->source().parents().size(), parents(*disk));
    }
    count_ends(faults);
    sim::StorageImage left;
    if (crash) {
      coverage_.hit_if(!storage().powered(), "power cut");
      coverage_.hit_if(!storage().powered() && !flushed_, "power cut before the copy was flushed");
      storage().power_off();
      left = storage().crash_image(sim::CrashSubset::seeded(world_.env.seed()));
      end();
    } else {
      end();
      left = faults ? storage().image() : durable();
    }
    World judge(1);
    for (auto& [path, content] : left) judge.env.storage().put(path, content);
    for (const auto& disk : disks_) {
      SimulatedDisk::Verdict verdict;
      // Closing an image writes its tables only behind its flushes.
      verdict.crashed = crash || disk->flush_failed('s');
      verdict.copied = !disk->job()->failure() && (!crash || flushed_) && !disk->flush_failed('t');
      coverage_.hit_if(disk->flush_failed('s'), "flush of the source failed");
      coverage_.hit_if(disk->flush_failed('t'), "flush of the target failed");
      verdict.clean = !crash && !faults;
      if (verdict.copied) count_copy(*disk, verdict);
      disk->judge(judge, verdict);
      if (testing::Test::HasFailure()) return;
    }
  }

  // Everything was closed, and so must survive a power cut.
  sim::StorageImage durable() {
    storage().power_off();
    return storage().crash_image(sim::CrashSubset::none());
  }

  void end() {
    for (const auto& disk : disks_) {
      disk->end_faults();
      disk->end_guest();
    }
    for (const auto& disk : disks_) disk->close();
  }

  void count_ends(bool faults) {
    std::size_t failed = 0;
    for (const auto& disk : disks_) failed += disk->job()->failure() ? 1 : 0;
    coverage_.hit_if(cancelled_ && failed > 0, "cancel");
    if (events_.grouped) {
      EXPECT_TRUE(failed == 0 || failed == disks_.size());
      coverage_.hit(failed == 0 ? "grouped transaction completed" : "grouped transaction failed");
    } else {
      coverage_.hit_if(disks_.size() > 1, "individual transaction");
      coverage_.hit_if(failed == 1 && disks_.size() > 1, "one of two jobs failed");
    }
    if (!faults && !cancelled_ && storage().powered()) EXPECT_EQ(failed, 0u);
  }

  void count_copy(const SimulatedDisk& disk, const SimulatedDisk::Verdict& verdict) {
    const test::DiskPlan& plan = disk.plan();
    coverage_.hit("copy judged");
    coverage_.hit_if(verdict.crashed, "flushed copy judged after a power cut");
    coverage_.hit(plan.sync == BackupSync::kFull  ? "sync=full"
                  : plan.sync == BackupSync::kTop ? "sync=top"
                                                  : "sync=none");
    coverage_.hit(plan.target.qcow2 ? "qcow2 target" : "raw target");
    coverage_.hit_if(plan.compress, "compressed target");
    coverage_.hit_if(plan.target_backing == TargetBacking::kSame, "sync=top with backing");
    coverage_.hit_if(plan.target_backing == TargetBacking::kOther, "target hides its backing");
    coverage_.hit_if(plan.target.qcow2 && plan.target.create.extended_l2, "extended L2 target");
    coverage_.hit_if(plan.target.qcow2 && plan.target.create.lazy_refcounts, "lazy target");
    coverage_.hit_if(plan.target.qcow2 && plan.target.create.version == 2, "version 2 target");
    coverage_.hit_if(plan.target.create.cluster_size > test::kUnit, "target of large clusters");
  }

  World world_;
  sim::SimRandom& chance_;
  Coverage& coverage_;
  const Events events_;
  CommandTable commands_;
  HumanTable human_;
  Monitor monitor_;
  std::vector<std::unique_ptr<SimulatedDisk>> disks_;
  std::map<std::string, std::pair<std::optional<schema::BlockdevOnError>,
                                  std::optional<schema::BlockdevOnError>>>
      policies_;
  Gate gate_;
  bool cancelled_ = false;
  bool flushed_ = false;
};

TEST(BackupSimulation, TheCopyIsTheDiskOfItsInstant) {
  Coverage coverage({
      "raw source",
      "qcow2 source",
      "backing file shorter than the disk",
      "transaction undone",
      "grouped transaction completed",
      "grouped transaction failed",
      "individual transaction",
      "one of two jobs failed",
      "pause",
      "resume",
      "set-speed",
      "drained section",
      "flush of the target while the job went on",
      "speed limit",
      "cancel",
      "error of the source's read",
      "error of the target's write",
      "error reported, job failed",
      "error ignored, job completed",
      "error stopped the job, resumed, completed",
      "full target, completed with new room",
      "guest write refused because its copy failed",
      "guest write refused because the source could not be read",
      "the past was read while the job went on",
      "flush of the source failed",
      "flush of the target failed",
      "power cut",
      "power cut while a job ran",
      "power cut before the copy was flushed",
      "flushed copy judged after a power cut",
      "copy judged",
      "sync=full",
      "sync=top",
      "sync=none",
      "raw target",
      "qcow2 target",
      "compressed target",
      "sync=top with backing",
      "target hides its backing",
      "extended L2 target",
      "lazy target",
      "version 2 target",
      "target of large clusters",
  });
  test::for_each_seed_covering(coverage, kSeeds,
                               [&](uint64_t seed) { Scenario(seed, coverage).go(); });
}

}  // namespace
}  // namespace blockbed
