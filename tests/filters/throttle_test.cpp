// The throttle filter in a graph: guests, drains and changing limits, for many seeds.
#include "block/filters/throttle.h"

#include <gtest/gtest.h>

#include <list>

#include "block/filters/register.h"
#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/sim/sim_env.h"
#include "tests/support/memory_driver.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr uint64_t kDiskSize = 1 << 20;
constexpr PermissionPair kReadWrite{Permission::kConsistentRead | Permission::kWrite,
                                    Permissions::all()};

ThrottleLimits operations(int64_t rate) {
  ThrottleLimits limits;
  limits.buckets[ThrottleLimits::kIopsTotal].average = rate;
  return limits;
}

// Filters of groups "g" and "h" over one disk: t0 and t1 on it, t2 on t1.
class World {
 public:
  explicit World(uint64_t seed) : env(seed) {
    disk.bytes.resize(kDiskSize);
    registry.add(test::memory_entry(disk));
    register_filters(registry);
    graph.emplace(env, events, registry);
    for (const char* name : {"g", "h"}) {
      groups.push_back(graph->throttle_groups().find_or_make(name));
    }
    open({{"driver", "null-co"}, {"node-name", "disk"}, {"discard", "unmap"}});
    open_filter("t0", "disk", "g");
    open_filter("t1", "disk", "g");
    open_filter("t2", "t1", "h");
    for (const char* name : {"t0", "t2"}) {
      backends.emplace_back(*graph, "", kReadWrite);
      EXPECT_TRUE(backends.back().insert(*graph->find_node(name)).has_value());
    }
  }
  ~World() {
    env.run(gate.close());
    env.run(finish());
  }

  void open(json::Object options) {
    Graph::OpenRequest request;
    request.options = std::move(options);
    auto opened = env.run(graph->open(std::move(request)));
    ASSERT_TRUE(opened.has_value()) << opened.error().description;
    graph->give_to_monitor(**opened);
  }
  void open_filter(const char* name, const char* below, const char* group) {
    open({{"driver", "throttle"},
          {"node-name", name},
          {"file", below},
          {"throttle-group", group},
          {"discard", "unmap"}});
  }
  Task<void> finish() {
    for (Backend& backend : backends) co_await backend.remove();
    backends.clear();
    co_await graph->shutdown();
    groups.clear();
    graph.reset();
  }

  Task<void> guest(Backend& backend) {
    std::array<std::byte, 4096> bytes = {};
    while (!stop) {
      const auto length = static_cast<uint64_t>(env.chance().between(1, 4096));
      const auto offset = static_cast<uint64_t>(env.chance().between(0, kDiskSize - 4096));
      ++begun;
      Result<void> result;
      switch (env.chance().between(0, 3)) {
        case 0:
          result = co_await backend.read(offset, IoVector(bytes.data(), length));
          break;
        case 1:
          result = co_await backend.write(offset, IoVector(bytes.data(), length));
          break;
        case 2:
          result = co_await backend.zero(offset, length);
          break;
        default:
          result = co_await backend.discard(offset, length);
          break;
      }
      EXPECT_TRUE(result.has_value());
      ++ended;
      co_await env.sleep(env.chance().between(1, 20'000'000));
    }
  }
  void run(int64_t time) { env.run(env.sleep(time)); }

  sim::SimEnv env;
  test::RecordedEvents events;
  DriverRegistry registry;
  test::MemoryDisk disk;
  std::optional<Graph> graph;
  std::vector<std::shared_ptr<ThrottleGroup>> groups;
  std::list<Backend> backends;
  Gate gate{env.executor()};
  bool stop = false;
  uint64_t begun = 0;
  uint64_t ended = 0;
};

TEST(Throttle, NoRequestIsLost) {
  sim::for_each_seed(30, [](uint64_t seed) {
    World world(seed);
    sim::SimRandom& chance = world.env.chance();
    for (const auto& group : world.groups) group->set_limits(operations(chance.between(1, 50)));
    for (Backend& backend : world.backends) {
      for (int64_t i = chance.between(1, 6); i > 0; --i) world.gate.spawn(world.guest(backend));
    }
    const std::array nodes = {"disk", "t0", "t1", "t2"};
    for (int step = 0; step < 30; ++step) {
      world.run(chance.between(1, kSecond / 2));
      if (chance.percent(30)) {
        world.groups[static_cast<std::size_t>(chance.between(0, 1))]->set_limits(
            operations(chance.between(0, 50)));
      }
      const int64_t before = world.env.now();
      Node* node = world.graph->find_node(nodes[static_cast<std::size_t>(chance.between(0, 3))]);
      DrainedSection drained = world.env.run(drain(*node));
      // Whoever waited went through at once, above, in the node, or below it.
      EXPECT_EQ(world.env.now(), before);
      EXPECT_EQ(node->in_flight(), 0U);
      const uint64_t ended = world.ended;
      if (node->name() == "disk") {
        world.run(kSecond);
        EXPECT_EQ(world.ended, ended);
      }
    }
    world.stop = true;
    for (const auto& group : world.groups) group->set_limits({});
    world.env.run(world.gate.close());
    EXPECT_EQ(world.begun, world.ended);
  });
}

TEST(Throttle, OpenedOverADrainedDisk) {
  World world(1);
  world.groups[0]->set_limits(operations(1));
  {
    const DrainedSection drained = world.env.run(drain(*world.graph->find_node("disk")));
    world.open_filter("t3", "disk", "g");
  }
  world.backends.emplace_back(*world.graph, "", kReadWrite);
  Backend& backend = world.backends.back();
  ASSERT_TRUE(backend.insert(*world.graph->find_node("t3")).has_value());
  for (int i = 0; i < 4; ++i) world.gate.spawn(world.guest(backend));
  world.run(1);
  EXPECT_EQ(world.ended, 1U);
  world.stop = true;
  world.groups[0]->set_limits({});
}

TEST(Throttle, FiltersInARowBothCount) {
  World world(1);
  world.groups[0]->set_limits(operations(100));
  world.groups[1]->set_limits(operations(20));
  for (Backend& backend : world.backends) {
    for (int i = 0; i < 8; ++i) world.gate.spawn(world.guest(backend));
  }
  world.run(kSecond);
  const uint64_t begun = world.begun;
  world.run(20 * kSecond);
  // t2 is held to 20 a second, t0 may have what t1 leaves of 100.
  EXPECT_NEAR(static_cast<double>(world.begun - begun), 2000, 40);
  world.stop = true;
  for (const auto& group : world.groups) group->set_limits({});
}

}  // namespace
}  // namespace blockbed
