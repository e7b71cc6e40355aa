#include "block/runtime/task.h"

#include <gtest/gtest.h>

#include <string>

#include "block/runtime/gate.h"
#include "block/runtime/production_env.h"

namespace blockbed {
namespace {

Task<int> answer() { co_return 42; }

Task<int> sum(int depth) {
  if (depth == 0) co_return 0;
  co_return co_await sum(depth - 1) + 1;
}

Task<Result<std::string>> failing() { co_return io_error(EIO); }
Task<Result<void>> succeeding() { co_return {}; }

TEST(Task, GivesItsValue) {
  ProductionEnv env;
  EXPECT_EQ(env.run_until_complete(answer()), 42);
  EXPECT_TRUE(env.run_until_complete(succeeding()).has_value());
  const Result<std::string> failed = env.run_until_complete(failing());
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().number(), EIO);
}

Task<void> set(bool& flag) {
  flag = true;
  co_return;
}

TEST(Task, DoesNothingUntilAwaited) {
  ProductionEnv env;
  bool ran = false;
  Task<void> task = set(ran);
  EXPECT_FALSE(ran);
  env.run_until_complete(std::move(task));
  EXPECT_TRUE(ran);
  // One that is never awaited frees its frame.
  bool never = false;
  {
    Task<void> unused = set(never);
  }
  EXPECT_FALSE(never);
}

TEST(Task, CarriesValuesThatOnlyMove) {
  ProductionEnv env;
  const auto make = [](int value) -> Task<std::unique_ptr<int>> {
    co_return std::make_unique<int>(value);
  };
  EXPECT_EQ(*env.run_until_complete(make(7)), 7);
}

TEST(Task, NestsWithoutATurnOfTheLoop) {
  ProductionEnv env;
  EXPECT_EQ(env.run_until_complete(sum(1000)), 1000);
}

Task<int> immediate() { co_return 1; }
Task<int> count_up(int n) {
  int total = 0;
  for (int i = 0; i < n; ++i) total += co_await immediate();
  co_return total;
}

// Symmetric transfer: a million completions in a row must not pile up on the stack.
TEST(Task, CompletionsDoNotGrowTheStack) {
  ProductionEnv env;
  EXPECT_EQ(env.run_until_complete(count_up(1'000'000)), 1'000'000);
}

Task<void> yield_often(Executor& executor, int n, std::string& trace, char name) {
  for (int i = 0; i < n; ++i) {
    trace += name;
    co_await executor.yield();
  }
}

Task<void> two_in_a_gate(Env& env, std::string& trace) {
  Gate gate(env.executor());
  gate.spawn(yield_often(env.executor(), 3, trace, 'a'));
  gate.spawn(yield_often(env.executor(), 3, trace, 'b'));
  EXPECT_EQ(gate.inside(), 2U);
  co_await gate.close();
  EXPECT_EQ(gate.inside(), 0U);
}

TEST(Task, ReadyOnesTakeTurnsInOrder) {
  ProductionEnv env;
  std::string trace;
  env.run_until_complete(two_in_a_gate(env, trace));
  EXPECT_EQ(trace, "ababab");
}

Task<void> yield_many(Executor& executor, int n, int& left) {
  for (int i = 0; i < n; ++i) co_await executor.yield();
  --left;
}

Task<void> crowd(Env& env, int coroutines) {
  Gate gate(env.executor());
  int left = coroutines;
  for (int i = 0; i < coroutines; ++i) gate.spawn(yield_many(env.executor(), 5, left));
  co_await gate.close();
  EXPECT_EQ(left, 0);
}

TEST(Task, TheQueueOfReadyOnesGrows) {
  ProductionEnv env;
  env.run_until_complete(crowd(env, 3000));
}

Task<void> suspend_for_ever() { co_await std::suspend_always{}; }

TEST(TaskDeathTest, MustEndBeforeItDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Task<void> task = suspend_for_ever();
        auto awaiter = std::move(task).operator co_await();
        awaiter.await_suspend(std::noop_coroutine()).resume();
      },
      "assertion failed");
}

}  // namespace
}  // namespace blockbed
