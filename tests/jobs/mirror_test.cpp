// A mirror on its own, as the command makes it.
#include "block/jobs/mirror.h"

#include "block/graph/drain.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;

// A write that the disk has taken before the job runs, and ends when the job is ready.
void write_while_a_mirror_begins(uint64_t seed) {
  test::World world(seed);
  Node& source = world.file("s", sim::SparseBytes(64 * kKiB));
  Node& target = world.file("t", sim::SparseBytes(64 * kKiB));
  auto guest = world.guest(source);
  std::shared_ptr<MirrorJob> job;

  MirrorOptions options;
  options.job.id = "j";
  options.source = NodeRef(source);
  options.target = NodeRef(target);
  options.sync = MirrorSync::kNone;
  options.write_blocking = true;
  const auto create = [&]() -> Task<void> {
    MutexGuard lock = co_await world.graph->lock();
    DrainedSection drained = co_await drain(source);
    auto created = co_await MirrorJob::create(*world.jobs, std::move(options));
    EXPECT_TRUE(created.has_value());
    job = *created;
    world.jobs->start(*job);
  };

  sim::FaultRule rule;
  rule.path = "s";
  rule.requests = sim::kSimWrite;
  rule.error = 0;
  rule.hold = true;
  const auto held = world.env.storage().add_fault(rule);
  const auto write = [&]() -> Task<void> {
    Buffer buffer(kKiB);
    buffer.io().fill(7);
    EXPECT_TRUE((co_await guest->write(0, buffer.io())).has_value());
    std::byte byte{};
    world.env.storage().content("t").read(0, std::span(&byte, 1));
    EXPECT_EQ(byte, std::byte{7}) << "seed " << seed;
  };

  Gate gate(world.env.executor());
  const auto begin = [&]() -> Task<void> {
    DrainedSection drained = co_await drain(target);
    co_await create();
    // Neither the guest nor the job goes on before the target does.
    gate.spawn(write());
  };
  world.run(begin());
  world.run(world.env.storage().wait_for_hits(held, 1));
  world.run(world.wait_for_status(job, JobStatus::kReady));
  world.env.storage().release(held);
  world.run(gate.close());
  EXPECT_TRUE(world.run(world.jobs->cancel(job, /*force=*/true)).has_value());
  world.run(world.wait_for_end(job));
  world.run(guest->remove());
}

TEST(Mirror, WritesToBothFromTheFirstWriteOn) {
  for (uint64_t seed = 1; seed <= 20; ++seed) write_while_a_mirror_begins(seed);
}

}  // namespace
}  // namespace blockbed
