// Backups one by one: their events in QEMU's order, their errors in QEMU's words, what ends up in
// the target.
#include "block/jobs/backup.h"

#include <gmock/gmock.h>

#include "block/filters/copy_before_write.h"
#include "block/graph/drain.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;
using test::kMiB;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kSize = 4 * kMiB;

sim::SparseBytes filled(uint64_t size, unsigned char byte) {
  sim::SparseBytes bytes;
  bytes.resize(size);
  const std::vector<std::byte> block(64 * kKiB, std::byte{byte});
  for (uint64_t at = 0; at < size; at += block.size()) bytes.write(at, block);
  return bytes;
}

sim::SparseBytes empty(uint64_t size) {
  sim::SparseBytes bytes;
  bytes.resize(size);
  return bytes;
}

class BackupTest : public testing::Test {
 public:
  BackupTest()
      : world(1),
        source(world.file("s", filled(kSize, 1))),
        target(world.file("t", empty(kSize))) {}

  Expected<std::shared_ptr<BackupJob>> start(BackupOptions options) {
    return world.run(world.backup(std::move(options)));
  }
  std::string error_of(BackupOptions options) {
    auto started = start(std::move(options));
    EXPECT_FALSE(started.has_value());
    return started ? "" : started.error().description;
  }
  BackupOptions plain(const std::string& id = "j") { return world.options(id, source, target); }

  Task<Result<void>> write(Backend& guest, uint64_t offset, unsigned char byte, uint64_t length) {
    Buffer buffer(length);
    buffer.io().fill(byte);
    co_return co_await guest.write(offset, buffer.io());
  }
  Task<Result<unsigned char>> byte_at(Node& node, uint64_t offset) {
    std::byte byte{};
    auto done = co_await node.read(offset, IoVector(&byte, 1));
    if (!done) co_return io_error(done.error());
    co_return static_cast<unsigned char>(byte);
  }

  test::World world;
  Node& source;
  Node& target;
};

TEST_F(BackupTest, FullTellsQemusEventsInQemusOrder) {
  auto job = start(plain());
  ASSERT_TRUE(job.has_value()) << job.error().description;
  EXPECT_THAT(world.events.take(), ElementsAre("j created", "j running", "j paused", "j running"));
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(world.events.take(),
              ElementsAre("j waiting", "j pending", "BLOCK_JOB_COMPLETED j 4194304/4194304",
                          "j concluded", "j null"));
  EXPECT_EQ(world.env.storage().content("t"), world.env.storage().content("s"));
  EXPECT_THAT(world.jobs->jobs(), IsEmpty());
  EXPECT_EQ(world.graph->nodes().size(), 2u);  // the filter is gone
}

TEST_F(BackupTest, AnEmptyDiskIsDoneBeforeTheReply) {
  Node& a = world.file("a", empty(0));
  Node& b = world.file("b", empty(0));
  ASSERT_TRUE(start(world.options("j", a, b)).has_value());
  EXPECT_THAT(world.events.take(),
              ElementsAre("j created", "j running", "j paused", "j running", "j waiting",
                          "j pending", "BLOCK_JOB_COMPLETED j 0/0", "j concluded", "j null"));
}

TEST_F(BackupTest, StopsAtPendingAndConcludedWhenAskedTo) {
  BackupOptions options = plain();
  options.job.auto_finalize = false;
  options.job.auto_dismiss = false;
  auto job = start(std::move(options));
  ASSERT_TRUE(job.has_value());
  world.events.take();
  while ((*job)->status() != JobStatus::kPending) world.run(world.env.sleep(1000));
  EXPECT_THAT(world.events.take(), ElementsAre("j waiting", "j pending", "BLOCK_JOB_PENDING j"));
  EXPECT_EQ((*job)->check_verb(JobVerb::kDismiss).error().description,
            "Job 'j' in state 'pending' cannot accept command verb 'dismiss'");
  EXPECT_TRUE(world.run(world.jobs->finalize(*job)).has_value());
  EXPECT_THAT(world.events.take(),
              ElementsAre("BLOCK_JOB_COMPLETED j 4194304/4194304", "j concluded"));
  EXPECT_EQ(world.run(world.jobs->cancel(*job, true)).error().description,
            "Job 'j' in state 'concluded' cannot accept command verb 'cancel'");
  EXPECT_TRUE(world.run(world.jobs->dismiss(*job)).has_value());
  EXPECT_THAT(world.events.take(), ElementsAre("j null"));
}

TEST_F(BackupTest, TheInstantIsThatOfTheCommand) {
  auto guest = world.guest(source);
  auto job = start(plain());
  ASSERT_TRUE(job.has_value());
  for (uint64_t at = 0; at < kSize; at += 192 * kKiB) {
    EXPECT_TRUE(world.run(write(*guest, at, 2, 10 * kKiB)).has_value());
  }
  EXPECT_TRUE(world.run(guest->zero(kSize - 100 * kKiB, 90 * kKiB)).has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_EQ(world.env.storage().content("t"), filled(kSize, 1));
  EXPECT_EQ(world.run(byte_at(source, 192 * kKiB)), 2);
  world.run(guest->remove());
}

TEST_F(BackupTest, NoneKeepsOnlyWhatGuestsOverwriteAndCanBeCompleted) {
  auto guest = world.guest(source);
  auto job = start(world.options("j", source, target, BackupSync::kNone));
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ((*job)->progress().total(), kSize);
  EXPECT_TRUE(world.run(write(*guest, 70 * kKiB, 2, kKiB)).has_value());
  EXPECT_EQ((*job)->progress().done, 64 * kKiB);
  EXPECT_EQ(world.run(byte_at(target, 64 * kKiB)), 1);
  EXPECT_EQ(world.run(byte_at(target, 128 * kKiB)), 0);
  world.events.take();
  EXPECT_TRUE(world.run((*job)->user_complete()).has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(world.events.take(),
              ElementsAre("j waiting", "j pending", "BLOCK_JOB_COMPLETED j 65536/4194304",
                          "j concluded", "j null"));
  world.run(guest->remove());
}

TEST_F(BackupTest, OnlyNoneCanBeCompleted) {
  BackupOptions options = plain();
  options.speed = 1;
  auto job = start(std::move(options));
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ(world.run((*job)->user_complete()).error().description,
            "Job 'j' in state 'running' cannot accept command verb 'complete'");
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
}

TEST_F(BackupTest, CancelWhileTheRateHoldsItBackIsToldBeforeTheReply) {
  BackupOptions options = plain();
  options.speed = 65536;
  auto job = start(std::move(options));
  ASSERT_TRUE(job.has_value());
  world.run(world.env.sleep(50'000'000));
  EXPECT_EQ((*job)->progress().done, kMiB);
  world.events.take();
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(
      world.events.take(),
      ElementsAre("j aborting", "BLOCK_JOB_CANCELLED j 1048576/4194304", "j concluded", "j null"));
}

TEST_F(BackupTest, PauseShowsAndResumeGoesOn) {
  BackupOptions options = plain();
  options.speed = 1;
  auto job = start(std::move(options));
  ASSERT_TRUE(job.has_value());
  world.run(world.env.sleep(50'000'000));
  world.events.take();
  EXPECT_EQ((*job)->user_resume().error().description, "Can't resume a job that was not paused");
  EXPECT_TRUE((*job)->user_pause().has_value());
  world.run(world.jobs->settle(*job));
  world.run(world.env.sleep(1'000));
  EXPECT_THAT(world.events.take(), ElementsAre("j paused"));
  EXPECT_EQ((*job)->user_pause().error().description, "Job is already paused");
  // A drained section inside the user's pause does not show.
  {
    DrainedSection drained = world.run(drain(target));
  }
  EXPECT_THAT(world.events.take(), IsEmpty());
  EXPECT_TRUE((*job)->user_resume().has_value());
  EXPECT_THAT(world.events.take(), ElementsAre("j running"));
  EXPECT_TRUE((*job)->user_set_speed(0).has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_EQ(world.env.storage().content("t"), filled(kSize, 1));
}

TEST_F(BackupTest, DrainPausesEveryJobOfTheNode) {
  auto job = start(world.options("j", source, target, BackupSync::kNone));
  world.events.take();
  {
    DrainedSection drained = world.run(drain(target));
    EXPECT_THAT(world.events.take(), ElementsAre("j paused"));
  }
  EXPECT_THAT(world.events.take(), ElementsAre("j running"));
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
}

TEST_F(BackupTest, RefusesInQemusWordsAndLeavesNothingBehind) {
  Node& big = world.file("big", empty(2 * kSize));
  Node& read_only = world.file("ro", empty(kSize), {{"read-only", true}});
  const auto with = [&](auto change) {
    BackupOptions options = plain();
    change(options);
    return error_of(std::move(options));
  };
  EXPECT_EQ(with([&](auto& o) { o.target = NodeRef(source); }),
            "Source and target cannot be the same");
  EXPECT_EQ(with([&](auto& o) { o.target = NodeRef(big); }),
            "Source and target image have different sizes");
  EXPECT_EQ(with([&](auto& o) { o.target = NodeRef(read_only); }),
            "Could not create node: Block node is read-only");
  EXPECT_EQ(with([](auto& o) { o.compress = true; }),
            "Compression is not supported for this drive ");
  EXPECT_EQ(with([](auto& o) { o.max_workers = 0; }),
            "max-workers must be between 1 and 2147483647");
  EXPECT_EQ(with([](auto& o) { o.max_workers = 2147483648; }),
            "max-workers must be between 1 and 2147483647");
  EXPECT_EQ(with([](auto& o) { o.max_chunk = -1; }),
            "max-chunk must be zero (which means no limit) or positive");
  EXPECT_EQ(with([](auto& o) { o.max_chunk = 4096; }),
            "Required max-chunk (4096) is less than backup cluster size (65536)");
  EXPECT_EQ(with([](auto& o) { o.job.id = ""; }), "Invalid job ID ''");
  EXPECT_EQ(with([](auto& o) { o.job.id = "1"; }), "Invalid job ID '1'");
  EXPECT_EQ(with([](auto& o) { o.filter_node_name = "t"; }),
            "Could not create node: Duplicate nodes with node-name='t'");
  EXPECT_THAT(world.events.take(), IsEmpty());
  EXPECT_EQ(with([](auto& o) { o.speed = -1; }), "Parameter 'speed' expects a non-negative value");
  EXPECT_THAT(world.events.take(), ElementsAre("j created", "j null"));
  EXPECT_EQ(world.graph->nodes().size(), 4u);
  EXPECT_TRUE(source.parents().empty());
  EXPECT_TRUE(target.parents().empty());
}

TEST_F(BackupTest, ASecondJobMeetsTheBansAndPermissionsOfTheFirst) {
  auto drive = world.device("d", source);
  auto job = start(world.options("j", source, target, BackupSync::kNone));
  ASSERT_TRUE(job.has_value());
  Node& u = world.file("u", empty(kSize));
  EXPECT_EQ(error_of(world.options("k", u, target)),
            "Node 't' is busy: block device is in use by block job: backup");
  EXPECT_EQ(error_of(world.options("k", (*job)->filter(), u)),
            "Node 'd' is busy: block device is in use by block job: backup");
  EXPECT_EQ(error_of(world.options("j", source, u)), "Job ID 'j' already in use");
  const std::string conflict = error_of(world.options("k", u, source));
  EXPECT_THAT(conflict, testing::StartsWith("Could not create node: Permission conflict on node "
                                            "'s': permissions 'write' are both required by node "));
  // A second instant of the same disk is fine.
  auto second = start(world.options("k", source, u, BackupSync::kNone));
  ASSERT_TRUE(second.has_value()) << second.error().description;
  EXPECT_TRUE(world.run(write(*drive, 0, 9, 512)).has_value());
  EXPECT_EQ(world.run(byte_at(target, 0)), 1);
  EXPECT_EQ(world.run(byte_at(u, 0)), 1);
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
  EXPECT_TRUE(world.run(world.jobs->cancel(*second, false)).has_value());
  world.run(world.wait_for_end(*job));
  world.run(world.wait_for_end(*second));
  world.run(drive->remove());
}

TEST_F(BackupTest, TheDefaultIdIsTheDevice) {
  auto drive = world.device("d", source);
  auto job = start(world.options("", source, target, BackupSync::kNone));
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ((*job)->id(), "d");
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
  world.run(world.wait_for_end(*job));
  world.run(drive->remove());
}

sim::FaultRule fault(const std::string& path, unsigned requests, int error) {
  sim::FaultRule rule;
  rule.path = path;
  rule.requests = requests;
  rule.error = error;
  return rule;
}

TEST_F(BackupTest, ReportEndsTheJobWithTheError) {
  world.env.storage().add_fault(fault("t", sim::kSimWrite, EIO));
  auto job = start(plain());
  world.run(world.wait_for_end(*job));
  const auto events = world.events.take();
  ASSERT_EQ(events.size(), 9u);
  EXPECT_EQ(events[4], "BLOCK_JOB_ERROR j write report");
  EXPECT_EQ(events[5], "j aborting");
  EXPECT_THAT(events[6], testing::MatchesRegex("BLOCK_JOB_COMPLETED j .*: Input/output error"));
  EXPECT_EQ(events[8], "j null");
}

TEST_F(BackupTest, IgnoreTriesAgain) {
  world.env.storage().add_fault(fault("s", sim::kSimRead, EIO));
  BackupOptions options = plain();
  options.on_source_error = OnError::kIgnore;
  auto job = start(std::move(options));
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(world.events.take(), testing::Contains("BLOCK_JOB_ERROR j read ignore"));
  EXPECT_EQ(world.env.storage().content("t"), filled(kSize, 1));
}

TEST_F(BackupTest, StopWaitsForTheClientAndShowsWhy) {
  world.env.storage().add_fault(fault("t", sim::kSimWrite, ENOSPC));
  BackupOptions options = plain();
  options.on_target_error = OnError::kEnospc;
  auto job = start(std::move(options));
  while ((*job)->status() != JobStatus::kPaused) world.run(world.env.sleep(1000));
  EXPECT_THAT(world.events.take(), ElementsAre("j created", "j running", "j paused", "j running",
                                               "BLOCK_JOB_ERROR j write stop", "j paused"));
  EXPECT_EQ((*job)->io_status(), IoStatus::kNospace);
  EXPECT_TRUE((*job)->user_resume().has_value());
  EXPECT_EQ((*job)->io_status(), IoStatus::kOk);
  world.run(world.wait_for_end(*job));
  EXPECT_EQ(world.env.storage().content("t"), filled(kSize, 1));
}

TEST_F(BackupTest, AGuestWriteThatCannotBeSavedFailsAndTheBackupStaysRight) {
  auto guest = world.guest(source);
  auto job = start(world.options("j", source, target, BackupSync::kNone));
  world.env.storage().add_fault(fault("t", sim::kSimWrite, ENOSPC));
  EXPECT_EQ(world.run(write(*guest, 0, 2, 512)).error(), Errno(ENOSPC));
  EXPECT_EQ(world.run(byte_at(source, 0)), 1);
  EXPECT_TRUE(world.run(write(*guest, 0, 2, 512)).has_value());
  EXPECT_EQ(world.run(byte_at(target, 0)), 1);
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
  world.run(world.wait_for_end(*job));
  world.run(guest->remove());
}

TEST_F(BackupTest, AFlushOfTheGuestDoesNotReachTheTarget) {
  auto guest = world.guest(source);
  auto job = start(world.options("j", source, target, BackupSync::kNone));
  EXPECT_TRUE(world.run(write(*guest, 0, 2, 512)).has_value());
  sim::FaultRule rule = fault("t", sim::kSimFlush, EIO);
  world.env.storage().add_fault(rule);
  EXPECT_TRUE(world.run(guest->flush()).has_value());
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, false)).has_value());
  world.run(world.wait_for_end(*job));
  world.run(guest->remove());
}

TEST_F(BackupTest, ACancelledJobIsNotHeldUpByAPause) {
  sim::FaultRule rule = fault("t", sim::kSimWrite, 0);
  rule.hold = true;
  const auto held = world.env.storage().add_fault(rule);
  auto job = start(plain());
  world.run(world.env.storage().wait_for_hits(held, 1));
  EXPECT_TRUE(world.run(world.jobs->cancel(*job, true)).has_value());
  EXPECT_EQ((*job)->status(), JobStatus::kRunning);
  EXPECT_TRUE((*job)->user_pause().has_value());
  world.env.storage().release(held);
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(world.jobs->jobs(), IsEmpty());
}

// --- transactions of jobs

class GroupTest : public BackupTest {
 public:
  GroupTest()
      : source2(world.file("s2", filled(kSize, 5))), target2(world.file("t2", empty(kSize))) {}

  // Both in one drained section, started together, as `transaction` does it.
  Task<void> start_both(BackupOptions a, BackupOptions b) {
    auto transaction = std::make_shared<JobTransaction>();
    a.job.transaction = b.job.transaction = transaction;
    {
      MutexGuard lock = co_await world.graph->lock();
      std::vector<Node*> nodes{a.source.get(), b.source.get()};
      DrainedSection drained = co_await drain(std::move(nodes));
      first = *co_await BackupJob::create(*world.jobs, std::move(a));
      second = *co_await BackupJob::create(*world.jobs, std::move(b));
      world.jobs->start(*first);
      world.jobs->start(*second);
    }
  }

  Node& source2;
  Node& target2;
  std::shared_ptr<BackupJob> first, second;
};

TEST_F(GroupTest, BothConcludeTogether) {
  world.run(start_both(plain("a"), world.options("b", source2, target2)));
  world.run(world.wait_for_end(first));
  world.run(world.wait_for_end(second));
  auto events = world.events.take();
  const auto last = std::vector<std::string>(events.end() - 10, events.end());
  // The two that become waiting do so in the order of their ends.
  EXPECT_THAT((std::vector<std::string>(last.begin(), last.begin() + 2)),
              testing::UnorderedElementsAre("a waiting", "b waiting"));
  EXPECT_THAT(
      (std::vector<std::string>(last.begin() + 2, last.end())),
      ElementsAre("b pending", "a pending", "BLOCK_JOB_COMPLETED b 4194304/4194304", "b concluded",
                  "b null", "BLOCK_JOB_COMPLETED a 4194304/4194304", "a concluded", "a null"));
}

TEST_F(GroupTest, AFailureTakesTheOtherWithIt) {
  BackupOptions slow = plain("a");
  slow.sync = BackupSync::kNone;
  world.env.storage().add_fault(fault("t2", sim::kSimWrite, EIO));
  BackupOptions failing = world.options("b", source2, target2);
  failing.job.auto_dismiss = false;
  world.run(start_both(std::move(slow), std::move(failing)));
  world.run(world.wait_for_end(first));
  auto events = world.events.take();
  const auto last = std::vector<std::string>(events.end() - 7, events.end());
  EXPECT_EQ(last[0], "b aborting");
  EXPECT_THAT(last[1], testing::MatchesRegex("BLOCK_JOB_COMPLETED b .*: Input/output error"));
  EXPECT_THAT((std::vector<std::string>(last.begin() + 2, last.end())),
              ElementsAre("b concluded", "a aborting", "BLOCK_JOB_CANCELLED a 0/4194304",
                          "a concluded", "a null"));
  EXPECT_EQ(second->failure()->text, "Input/output error");
  EXPECT_TRUE(world.run(world.jobs->dismiss(second)).has_value());
}

TEST_F(GroupTest, CancellingOneThatIsPendingCancelsAll) {
  BackupOptions a = plain("a"), b = world.options("b", source2, target2);
  a.job.auto_finalize = b.job.auto_finalize = false;
  world.run(start_both(std::move(a), std::move(b)));
  while (first->status() != JobStatus::kPending) world.run(world.env.sleep(1000));
  world.events.take();
  EXPECT_TRUE(world.run(world.jobs->cancel(second, false)).has_value());
  EXPECT_THAT(
      world.events.take(),
      ElementsAre("b aborting", "BLOCK_JOB_CANCELLED b 4194304/4194304", "b concluded", "b null",
                  "a aborting", "BLOCK_JOB_CANCELLED a 4194304/4194304", "a concluded", "a null"));
}

TEST_F(GroupTest, ACancelThatComesWhileTheyConcludeIsTooLate) {
  BackupOptions a = plain("a"), b = world.options("b", source2, target2);
  a.job.auto_finalize = b.job.auto_finalize = false;
  a.job.auto_dismiss = false;
  auto guest = world.guest(source2);
  world.run(start_both(std::move(a), std::move(b)));
  while (first->status() != JobStatus::kPending) world.run(world.env.sleep(1000));
  world.events.take();

  // The filter of the one that concludes first cannot go while a guest's write goes through it.
  sim::FaultRule rule = fault("s2", sim::kSimWrite, 0);
  rule.hold = true;
  const auto held = world.env.storage().add_fault(rule);
  Gate gate(world.env.executor());
  const auto slow = [](GroupTest& test, Backend& disk) -> Task<void> {
    EXPECT_TRUE((co_await test.write(disk, 0, 2, 512)).has_value());
  };
  const auto finalize = [](GroupTest& test) -> Task<void> {
    EXPECT_TRUE((co_await test.world.jobs->finalize(test.first)).has_value());
  };
  const auto cancel = [](GroupTest& test) -> Task<void> {
    EXPECT_EQ((co_await test.world.jobs->cancel(test.first, true)).error().description,
              "Job 'a' in state 'concluded' cannot accept command verb 'cancel'");
  };
  gate.spawn(slow(*this, *guest));
  world.run(world.env.storage().wait_for_hits(held, 1));
  gate.spawn(finalize(*this));
  world.run(world.env.sleep(1'000'000));
  EXPECT_EQ(first->status(), JobStatus::kPending);
  gate.spawn(cancel(*this));
  world.run(world.env.sleep(1'000'000));
  world.env.storage().release(held);
  world.run(gate.close());
  EXPECT_THAT(world.events.take(),
              ElementsAre("BLOCK_JOB_COMPLETED b 4194304/4194304", "b concluded", "b null",
                          "BLOCK_JOB_COMPLETED a 4194304/4194304", "a concluded"));
  EXPECT_TRUE(world.run(world.jobs->dismiss(first)).has_value());
  world.run(guest->remove());
}

TEST_F(GroupTest, AnAbandonedJobLeavesNothing) {
  const auto prepare_and_abandon = [](GroupTest& test) -> Task<void> {
    MutexGuard lock = co_await test.world.graph->lock();
    DrainedSection drained = co_await drain(test.source);
    auto job = co_await BackupJob::create(*test.world.jobs, test.plain("a"));
    co_await test.world.jobs->abandon(*job);
  };
  world.run(prepare_and_abandon(*this));
  EXPECT_THAT(world.events.take(), ElementsAre("a created", "a aborting", "a concluded", "a null"));
  EXPECT_EQ(world.graph->nodes().size(), 4u);
}

TEST_F(GroupTest, ShutdownEndsRunningAndConcludedJobs) {
  BackupOptions slow = plain("a");
  slow.speed = 1;
  auto running = start(std::move(slow));
  BackupOptions kept = world.options("b", source2, target2);
  kept.job.auto_dismiss = false;
  auto concluded = start(std::move(kept));
  world.run(world.wait_for_end(*concluded));
  world.events.take();
  world.run(world.jobs->shutdown());
  EXPECT_THAT(world.events.take(),
              ElementsAre("a paused", "a running", "b null", "a aborting",
                          "BLOCK_JOB_CANCELLED a 1048576/4194304", "a concluded", "a null"));
}

// --- copies inside the host

TEST_F(BackupTest, CopyRangeMovesNoByteThroughMemory) {
  BackupOptions options = plain();
  options.use_copy_range = true;
  auto job = start(options);
  ASSERT_TRUE(job.has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_EQ(world.env.storage().requests(sim::kSimRead), 0u);
  EXPECT_EQ(world.env.storage().requests(sim::kSimCopy), kSize / BlockCopy::kDataChunk);
  EXPECT_EQ(world.env.storage().content("t"), world.env.storage().content("s"));
}

TEST_F(BackupTest, CopyRangeIsNotUsedUnasked) {
  auto job = start(plain());
  ASSERT_TRUE(job.has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_EQ(world.env.storage().requests(sim::kSimCopy), 0u);
}

TEST_F(BackupTest, CopyRangeThatIsRefusedIsReadAndWritten) {
  sim::SimAbilities abilities;
  abilities.copy = false;
  world.env.storage().set_abilities(abilities);
  BackupOptions options = plain();
  options.use_copy_range = true;
  auto job = start(options);
  ASSERT_TRUE(job.has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_GT(world.env.storage().requests(sim::kSimRead), 0u);
  EXPECT_EQ(world.env.storage().content("t"), world.env.storage().content("s"));
}

// A copy that fails says not which side it was: reading and writing does.
TEST_F(BackupTest, CopyRangeLeavesErrorsToReadAndWrite) {
  sim::FaultRule rule;
  rule.path = "t";
  rule.requests = sim::kSimCopy | sim::kSimWrite;
  rule.times = UINT64_MAX;
  world.env.storage().add_fault(rule);
  BackupOptions options = plain();
  options.use_copy_range = true;
  auto job = start(options);
  ASSERT_TRUE(job.has_value());
  world.run(world.wait_for_end(*job));
  EXPECT_THAT(world.events.take(), testing::Contains("BLOCK_JOB_ERROR j write report"));
}

}  // namespace
}  // namespace blockbed
