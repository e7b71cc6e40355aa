#include "block/sim/sim_env.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "block/runtime/gate.h"
#include "block/runtime/sync.h"
#include "block/sim/sim_storage.h"
#include "tests/support/seed_runner.h"

namespace blockbed::sim {
namespace {

Task<void> append(Env& env, char name, std::string& trace) {
  for (int i = 0; i < 3; ++i) {
    trace += name;
    co_await env.executor().yield();
  }
}

Task<std::string> interleave(Env& env) {
  Gate gate(env.executor());
  std::string trace;
  for (const char name : {'a', 'b', 'c'}) gate.spawn(append(env, name, trace));
  co_await gate.close();
  co_return trace;
}

TEST(SimEnv, TheSeedChoosesTheOrder) {
  std::set<std::string> orders;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SimEnv first(seed);
    SimEnv again(seed);
    const std::string order = first.run(interleave(first));
    EXPECT_EQ(again.run(interleave(again)), order);
    EXPECT_EQ(first.trace_hash(), again.trace_hash());
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 20U);
}

Task<int64_t> sleep_long(Env& env) {
  const int64_t begin = env.now();
  co_await env.sleep(3'600'000'000'000);
  co_return env.now() - begin;
}

TEST(SimEnv, TimeJumpsToTheNextDeadline) {
  SimEnv env(1);
  const WallTime before = env.wall_time();
  EXPECT_EQ(env.run(sleep_long(env)), 3'600'000'000'000);
  EXPECT_EQ(env.wall_time().seconds, before.seconds + 3600);
}

Task<void> stand_still(SimEnv& env) {
  const int64_t begin = env.now();
  for (int i = 0; i < 1000; ++i) co_await env.executor().yield();
  EXPECT_EQ(env.now(), begin);
}

TEST(SimEnv, TimeStandsStillWhileSomebodyIsReady) {
  SimEnv env(1);
  env.run(stand_still(env));
}

Task<void> wait_on(Timer& timer, int64_t deadline, int& outcome) {
  outcome = co_await timer.wait_until(deadline) ? 1 : 2;
}

Task<void> cancel_one(SimEnv& env) {
  Gate gate(env.executor());
  const auto early = env.make_timer();
  const auto late = env.make_timer();
  int early_outcome = 0;
  int late_outcome = 0;
  gate.spawn(wait_on(*early, env.now() + 10, early_outcome));
  gate.spawn(wait_on(*late, env.now() + 1000, late_outcome));
  co_await env.sleep(100);
  EXPECT_EQ(early_outcome, 1);
  EXPECT_EQ(late_outcome, 0);
  late->cancel();
  early->cancel();
  co_await gate.close();
  EXPECT_EQ(late_outcome, 2);
  EXPECT_EQ(env.now(), SimEnv::kBeginning + 100);
}

TEST(SimEnv, TimersFireOrAreCancelled) {
  SimEnv env(1);
  env.run(cancel_one(env));
}

Task<int> work_elsewhere(Env& env) {
  int result = 0;
  co_await env.run_on_worker([&result] { result = 7; });
  co_return result;
}

TEST(SimEnv, WorkersTakeTime) {
  for_each_seed(20, [](uint64_t seed) {
    SimEnv env(seed);
    EXPECT_EQ(env.run(work_elsewhere(env)), 7);
    EXPECT_GT(env.now(), SimEnv::kBeginning);
  });
}

Task<void> lock_twice(Env& env) {
  Mutex mutex(env.executor());
  const MutexGuard first = co_await mutex.lock();
  const MutexGuard second = co_await mutex.lock();
}

Task<void> spin(Env& env) {
  for (;;) co_await env.executor().yield();
}

TEST(SimEnvDeathTest, NamesWhoWaitsInADeadlock) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        SimEnv env(5);
        env.run(lock_twice(env));
      },
      "seed 5.*deadlock(.|\n)*waits: .*lock_twice");
}

TEST(SimEnvDeathTest, EndsALivelock) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        SimOptions options;
        options.max_steps = 1000;
        SimEnv env(5, options);
        env.run(spin(env));
      },
      "livelock");
}

TEST(SimEnvDeathTest, PrintsTheReplayCommandWhenASeedEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(for_each_seed(3,
                             [](uint64_t seed) {
                               SimEnv env(seed);
                               if (seed == 2) env.run(lock_twice(env));
                             }),
               "replay: BLOCKBED_SEED=2 .*--gtest_filter=SimEnvDeathTest.Prints");
}

// What a body that uses everything does must be a function of the seed alone.
Task<void> a_bit_of_everything(SimEnv& env) {
  FileOpenOptions options;
  options.write = options.create = true;
  auto file = co_await env.open_file("f", options);
  EXPECT_TRUE(file.has_value());
  Buffer buffer(8192);
  IoVector(buffer.span()).fill(static_cast<unsigned char>(env.random()));
  EXPECT_TRUE((co_await (*file)->write(env.random() % 100000, buffer.io())).has_value());
  co_await env.run_on_worker([] {});
  EXPECT_TRUE((co_await (*file)->flush()).has_value());
  EXPECT_TRUE((co_await (*file)->read(0, buffer.io())).has_value());
  EXPECT_TRUE((co_await (*file)->close()).has_value());
  co_await interleave(env);
}

TEST(SimEnv, TheSameSeedGivesTheSameTrace) {
  std::set<uint64_t> hashes;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SimEnv first(seed);
    first.run(a_bit_of_everything(first));
    SimEnv again(seed);
    again.run(a_bit_of_everything(again));
    EXPECT_EQ(first.trace_hash(), again.trace_hash());
    EXPECT_EQ(first.now(), again.now());
    hashes.insert(first.trace_hash());
  }
  EXPECT_EQ(hashes.size(), 30U);
}

}  // namespace
}  // namespace blockbed::sim
