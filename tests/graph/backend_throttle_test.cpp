// A backend in a throttle group: what becomes of requests that wait.
#include <gtest/gtest.h>

#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/sim/sim_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr PermissionPair kReadWrite{Permission::kConsistentRead | Permission::kWrite,
                                    Permissions::all()};

class BackendThrottle : public testing::Test {
 public:
  BackendThrottle() {
    disk.bytes.resize(1 << 20);
    registry.add(test::memory_entry(disk));
    graph.emplace(env, events, registry);
    Graph::OpenRequest request;
    request.options.set("driver", "null-co");
    auto opened = env.run(graph->open(std::move(request)));
    EXPECT_TRUE(opened.has_value());
    backend.emplace(*graph, "", kReadWrite);
    EXPECT_TRUE(backend->insert(**opened).has_value());
    limit("g", 1);
    for (int i = 0; i < 3; ++i) gate.spawn(write());
    run(1);
    // A tenth of an operation fits; the first one fills the bucket.
    EXPECT_EQ(disk.writes, 1U);
    EXPECT_EQ(backend->in_flight(), 2U);
  }
  ~BackendThrottle() override {
    run(1);
    env.run(gate.close());
    env.run(finish());
    EXPECT_EQ(ended, 3);
  }

  Task<void> finish() {
    co_await backend->remove();
    backend.reset();
    co_await graph->shutdown();
    graph.reset();
  }
  Task<void> write() {
    std::array<std::byte, 512> bytes = {};
    EXPECT_TRUE(co_await backend->write(0, IoVector(bytes.data(), bytes.size())));
    ++ended;
  }
  void limit(std::string_view name, int64_t iops) {
    const auto group = graph->throttle_groups().find_or_make(name);
    ThrottleLimits limits;
    limits.buckets[ThrottleLimits::kIopsTotal].average = iops;
    backend->set_throttle_group(group);
    group->set_limits(limits);
  }
  void run(int64_t time) { env.run(env.sleep(time)); }

  sim::SimEnv env{1};
  test::RecordedEvents events;
  DriverRegistry registry;
  test::MemoryDisk disk;
  std::optional<Graph> graph;
  std::optional<Backend> backend;
  Gate gate{env.executor()};
  int ended = 0;
};

TEST_F(BackendThrottle, TheyGoInTheirTime) {
  run(9 * kSecond / 10 - 2);
  EXPECT_EQ(disk.writes, 1U);
  run(2);
  EXPECT_EQ(disk.writes, 2U);
  run(kSecond);
  EXPECT_EQ(disk.writes, 3U);
}

TEST_F(BackendThrottle, ADrainEndsTheWait) {
  const int64_t begun = env.now();
  {
    const DrainedSection drained = env.run(drain(*backend->node()));
    EXPECT_EQ(disk.writes, 3U);
    EXPECT_EQ(env.now(), begun);
  }
  // The limits hold again, and know of what went through.
  ended -= 1;
  gate.spawn(write());
  run(2 * kSecond + 9 * kSecond / 10 - 3);
  EXPECT_EQ(disk.writes, 3U);
  run(4);
  EXPECT_EQ(disk.writes, 4U);
}

TEST_F(BackendThrottle, LosingItsNodeEndsTheWait) {
  env.run(backend->remove());
  EXPECT_EQ(disk.writes, 3U);
  EXPECT_EQ(backend->throttle_group()->name(), "g");
}

TEST_F(BackendThrottle, AnotherGroupOrNoneEndsTheWait) {
  limit("other", 1);
  run(1);
  EXPECT_EQ(disk.writes, 3U);
  EXPECT_EQ(graph->throttle_groups().find("g"), nullptr);
  backend->set_throttle_group(nullptr);
  EXPECT_EQ(graph->throttle_groups().find("other"), nullptr);
}

TEST_F(BackendThrottle, AGroupJoinedWhileDrainedHoldsAfterwards) {
  {
    const DrainedSection drained = env.run(drain(*backend->node()));
    limit("other", 1);
  }
  ended -= 2;
  for (int i = 0; i < 2; ++i) gate.spawn(write());
  run(1);
  EXPECT_EQ(disk.writes, 4U);
  run(kSecond);
  EXPECT_EQ(disk.writes, 5U);
}

}  // namespace
}  // namespace blockbed
