// Who goes next: many members and seeds in the simulator.
#include "block/graph/throttle_group.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>

#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using L = ThrottleLimits;
using Direction = ThrottleDirection;

constexpr int64_t kSecond = 1'000'000'000;

L only(L::Bucket bucket, ThrottleBucket value) {
  L limits;
  limits.buckets[bucket] = value;
  return limits;
}

// A disk with some requests on their way at any time, until it is told to stop.
struct Disk {
  Disk(sim::SimEnv& e, std::shared_ptr<ThrottleGroup> group)
      : env(e), member(std::make_unique<ThrottleMember>(std::move(group))) {}

  Task<void> work(Direction direction, uint64_t size, int64_t think) {
    while (!stop) {
      ++asked;
      ++waiting;
      co_await member->admit(direction, size);
      --waiting;
      ++passed[static_cast<std::size_t>(direction)];
      co_await env.sleep(think == 0 ? 0 : env.chance().between(1, think));
    }
  }

  uint64_t reads() const { return passed[0]; }
  uint64_t writes() const { return passed[1]; }
  uint64_t all() const { return passed[0] + passed[1]; }

  sim::SimEnv& env;
  std::unique_ptr<ThrottleMember> member;
  bool stop = false;
  uint64_t asked = 0;
  uint64_t waiting = 0;
  std::array<uint64_t, 2> passed = {0, 0};
};

class World {
 public:
  explicit World(uint64_t seed) : env(seed) {}
  ~World() {
    for (Disk& disk : disks) disk.stop = true;
    // A quiet system comes to rest.
    groups.end_limits();
    env.run(gate.close());
    for (const Disk& disk : disks) EXPECT_EQ(disk.asked, disk.all());
    disks.clear();
    held.clear();
    env.run(clock.close());
  }

  // Kept, as by an object.
  ThrottleGroup& group(const std::string& name, const L& limits = {}) {
    held.push_back(groups.find_or_make(name));
    held.back()->set_limits(limits);
    return *held.back();
  }

  Disk& add(const std::string& group) {
    return disks.emplace_back(env, groups.find_or_make(group));
  }
  void start(Disk& disk, Direction direction, uint64_t size, int depth, int64_t think = 0) {
    for (int i = 0; i < depth; ++i) gate.spawn(disk.work(direction, size, think));
  }
  void run(int64_t time) { env.run(env.sleep(time)); }

  sim::SimEnv env;
  GuestClock clock{env};
  ThrottleGroups groups{clock, env.executor()};
  std::vector<std::shared_ptr<ThrottleGroup>> held;
  Gate gate{env.executor()};
  std::list<Disk> disks;
};

// What each disk passed during `time`.
std::vector<uint64_t> passed_during(World& world, int64_t time) {
  std::vector<uint64_t> before;
  for (const Disk& disk : world.disks) before.push_back(disk.all());
  world.run(time);
  auto b = before.begin();
  for (const Disk& disk : world.disks) {
    *b = disk.all() - *b;
    ++b;
  }
  return before;
}

TEST(ThrottleGroup, MembersShareEvenly) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    const auto members = static_cast<std::size_t>(world.env.chance().between(1, 12));
    const int64_t rate = world.env.chance().between(50, 400);
    world.group("g", only(L::kIopsTotal, {rate, 0, 1}));
    for (std::size_t i = 0; i < members; ++i) {
      // That it asks for more is no reason to give it more.
      world.start(world.add("g"), Direction::kRead, 512,
                  static_cast<int>(world.env.chance().between(1, 20)), 1000);
    }
    world.run(kSecond);
    constexpr int kSeconds = 20;
    const double all = static_cast<double>(rate * kSeconds);
    const double each = all / static_cast<double>(members);
    double sum = 0;
    for (const uint64_t passed : passed_during(world, kSeconds * kSecond)) {
      sum += static_cast<double>(passed);
      EXPECT_NEAR(static_cast<double>(passed), each, std::max(2.0, 0.02 * each));
    }
    EXPECT_NEAR(sum, all, 0.02 * all);
  });
}

TEST(ThrottleGroup, WhatOneLeavesIsForTheOthers) {
  sim::for_each_seed(10, [](uint64_t seed) {
    World world(seed);
    world.group("g", only(L::kBpsTotal, {1 << 20, 0, 1}));
    Disk& busy = world.add("g");
    Disk& seldom = world.add("g");
    world.start(busy, Direction::kWrite, 4096, 32);
    world.start(seldom, Direction::kRead, 4096, 1, 200'000'000);
    world.run(kSecond);
    const auto passed = passed_during(world, 20 * kSecond);
    EXPECT_NEAR(static_cast<double>(passed[0] + passed[1]), 20 * 256, 0.02 * 20 * 256);
    // About ten a second is what it asks for, and it never waits for long.
    EXPECT_GT(passed[1], 150U);
  });
}

TEST(ThrottleGroup, ReadsAndWritesTakeTurns) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.group("g", only(L::kIopsTotal, {100, 0, 1}));
    Disk& disk = world.add("g");
    const int depth = static_cast<int>(world.env.chance().between(1, 16));
    world.start(disk, Direction::kRead, 512, depth);
    world.start(disk, Direction::kWrite, 512, 17 - depth);
    world.run(20 * kSecond);
    EXPECT_NEAR(static_cast<double>(disk.reads()), 1000, 20);
    EXPECT_NEAR(static_cast<double>(disk.writes()), 1000, 20);
  });
}

TEST(ThrottleGroup, SeparateLimitsDoNotHoldEachOtherUp) {
  sim::for_each_seed(10, [](uint64_t seed) {
    World world(seed);
    L limits = only(L::kIopsRead, {10, 0, 1});
    limits.buckets[L::kIopsWrite] = {200, 0, 1};
    world.group("g", limits);
    Disk& disk = world.add("g");
    world.start(disk, Direction::kRead, 512, 8);
    world.start(disk, Direction::kWrite, 512, 8);
    world.run(20 * kSecond);
    EXPECT_NEAR(static_cast<double>(disk.reads()), 200, 5);
    EXPECT_NEAR(static_cast<double>(disk.writes()), 4000, 80);
  });
}

TEST(ThrottleGroup, NobodyStarvesWhateverHappens) {
  sim::for_each_seed(40, [](uint64_t seed) {
    World world(seed);
    sim::SimRandom& chance = world.env.chance();
    const std::array<std::string, 3> names = {"a", "b", "c"};
    const auto any_limits = [&] {
      L limits;
      if (chance.percent(30)) return limits;
      const bool bytes = chance.percent(50);
      const int64_t rate = bytes ? chance.between(20'000, 200'000) : chance.between(20, 200);
      const int64_t maximum = chance.percent(50) ? 0 : rate * chance.between(1, 5);
      const uint64_t length = maximum == 0 ? 1 : static_cast<uint64_t>(chance.between(1, 3));
      if (chance.percent(50)) {
        return only(bytes ? L::kBpsTotal : L::kIopsTotal, {rate, maximum, length});
      }
      limits = only(bytes ? L::kBpsRead : L::kIopsRead, {rate, maximum, length});
      limits.buckets[bytes ? L::kBpsWrite : L::kIopsWrite] = {rate / 2 + 1, 0, 1};
      return limits;
    };
    for (const std::string& name : names) world.group(name);
    const auto disks = chance.between(1, 8);
    for (int64_t i = 0; i < disks; ++i) {
      Disk& disk = world.add(names[static_cast<std::size_t>(chance.between(0, 2))]);
      for (const Direction direction : {Direction::kRead, Direction::kWrite}) {
        world.start(disk, direction, static_cast<uint64_t>(chance.between(1, 8)) * 512,
                    static_cast<int>(chance.between(0, 4)), chance.between(1, 50'000'000));
      }
    }
    for (int step = 0; step < 60; ++step) {
      world.run(chance.between(1, 400'000'000));
      auto disk = std::next(world.disks.begin(), chance.between(0, disks - 1));
      const auto place = static_cast<std::size_t>(chance.between(0, 2));
      switch (chance.between(0, 3)) {
        case 0:
          world.held[place]->set_limits(any_limits());
          break;
        case 1:
          disk->member = std::make_unique<ThrottleMember>(world.held[place]);
          break;
        case 2: {
          // A drained section: nothing may wait in it.
          disk->member->lift();
          disk->member->lift();
          world.run(chance.between(1, 100'000'000));
          EXPECT_EQ(disk->waiting, 0U);
          disk->member->restore();
          world.run(chance.between(1, 100'000'000));
          EXPECT_EQ(disk->waiting, 0U);
          disk->member->restore();
          break;
        }
        default:
          break;
      }
    }
    // With limits that are what they are, everybody goes on.
    for (const auto& group : world.held) group->set_limits(only(L::kIopsTotal, {100, 0, 1}));
    std::vector<uint64_t> passed = passed_during(world, 10 * kSecond);
    std::size_t i = 0;
    for (const Disk& disk : world.disks) EXPECT_TRUE(passed[i++] > 10 || disk.asked == 0);
  });
}

TEST(ThrottleGroup, LiftedAndLeavingMembersWaitForNothing) {
  World world(1);
  world.group("g", only(L::kIopsTotal, {1, 0, 1}));
  Disk& lifted = world.add("g");
  Disk& leaving = world.add("g");
  Disk& staying = world.add("g");
  for (Disk* disk : {&lifted, &leaving, &staying}) {
    disk->stop = true;
    for (int i = 0; i < 5; ++i) {
      world.gate.spawn([](Disk& d) -> Task<void> {
        ++d.asked;
        co_await d.member->admit(Direction::kWrite, 512);
        ++d.passed[1];
      }(*disk));
    }
  }
  world.run(1);
  EXPECT_EQ(lifted.writes(), 1U);
  EXPECT_EQ(leaving.writes(), 0U);
  lifted.member->lift();
  leaving.member.reset();
  world.run(1);
  EXPECT_EQ(lifted.writes(), 5U);
  EXPECT_EQ(leaving.writes(), 5U);
  // They have counted: one second for each, less the tenth that the bucket holds.
  EXPECT_EQ(staying.writes(), 0U);
  world.run(9'899'999'000);
  EXPECT_EQ(staying.writes(), 0U);
  world.run(1000);
  EXPECT_EQ(staying.writes(), 1U);
  lifted.member->restore();
}

TEST(ThrottleGroup, LivesAsLongAsSomebodyHoldsIt) {
  World world(1);
  EXPECT_EQ(world.groups.find("g"), nullptr);
  {
    ThrottleMember member(world.groups.find_or_make("g"));
    EXPECT_EQ(world.groups.find("g").get(), &member.group());
    EXPECT_TRUE(member.group().has_members());
  }
  EXPECT_EQ(world.groups.find("g"), nullptr);
}

}  // namespace
}  // namespace blockbed
