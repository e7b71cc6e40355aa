#include "block/runtime/production_env.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include "block/runtime/gate.h"
#include "block/runtime/production_file.h"

namespace blockbed {
namespace {

Task<void> wait_for(Timer& timer, int64_t deadline, std::vector<int>& order, int name) {
  if (co_await timer.wait_until(deadline)) order.push_back(name);
}

Task<void> timers_in_order(Env& env) {
  Gate gate(env.executor());
  std::vector<int> order;
  std::vector<std::unique_ptr<Timer>> timers;
  const int64_t begin = env.now();
  // Deadlines 1 to 40 ms, armed in a scrambled order.
  for (int i = 0; i < 40; ++i) {
    const int k = (i * 17) % 40 + 1;
    timers.push_back(env.make_timer());
    gate.spawn(wait_for(*timers.back(), begin + k * 1'000'000, order, k));
  }
  co_await gate.close();
  EXPECT_GE(env.now() - begin, 40'000'000);
  EXPECT_EQ(order.size(), 40U);
  EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST(ProductionEnv, TimersFireInOrder) {
  ProductionEnv env;
  env.run_until_complete(timers_in_order(env));
}

Task<void> cancel_timers(Env& env) {
  Gate gate(env.executor());
  std::vector<int> order;
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 100; ++i) {
    timers.push_back(env.make_timer());
    gate.spawn(wait_for(*timers.back(), env.now() + (i % 2 == 0 ? 1'000'000 : 3600'000'000'000),
                        order, i));
  }
  timers[0]->cancel();
  timers[0]->cancel();
  while (order.size() < 49) co_await env.sleep(1'000'000);
  for (const auto& timer : timers) timer->cancel();
  co_await gate.close();
  EXPECT_EQ(order.size(), 49U);
  // One can be used again.
  EXPECT_TRUE(co_await timers[1]->wait_until(env.now()));
}

TEST(ProductionEnv, TimersAreCancelled) {
  ProductionEnv env;
  env.run_until_complete(cancel_timers(env));
}

Task<void> many_on_workers(ProductionEnv& env, int jobs, std::atomic<int>& done) {
  Gate gate(env.executor());
  const auto one = [](ProductionEnv& e, std::atomic<int>& d, std::thread::id engine) -> Task<void> {
    std::thread::id worker;
    co_await e.run_on_worker([&d, &worker] {
      worker = std::this_thread::get_id();
      ++d;
    });
    EXPECT_NE(worker, engine);
    EXPECT_EQ(std::this_thread::get_id(), engine);
  };
  for (int i = 0; i < jobs; ++i) gate.spawn(one(env, done, std::this_thread::get_id()));
  co_await gate.close();
}

TEST(ProductionEnv, StartsThreadsOnFirstUseAndNotTooMany) {
  ProductionEnv env;
  EXPECT_EQ(env.worker_threads(), 0U);
  std::atomic<int> done = 0;
  env.run_until_complete(many_on_workers(env, 1, done));
  EXPECT_EQ(env.worker_threads(), 1U);
  env.run_until_complete(many_on_workers(env, 2000, done));
  EXPECT_EQ(done.load(), 2001);
  EXPECT_LE(env.worker_threads(), 16U);
}

// They would only wait for each other in the kernel.
TEST(ProductionEnv, BufferedWritesOfAFileTakeTurns) {
  char directory[] = "/tmp/bb-env-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  ProductionEnv env;
  const auto write_much = [](ProductionEnv& e, std::string path) -> Task<void> {
    FileOpenOptions options;
    options.write = options.create = true;
    auto file = co_await e.open_file(std::move(path), options);
    EXPECT_TRUE(file);
    Gate gate(e.executor());
    const auto one = [](File& f, uint64_t offset) -> Task<void> {
      const Buffer buffer = Buffer::zeroed(std::size_t{1} << 20);
      EXPECT_TRUE(co_await f.write(offset, buffer.io()));
    };
    for (uint64_t i = 0; i < 32; ++i) gate.spawn(one(**file, i << 20));
    co_await gate.close();
    co_await (*file)->close();
  };
  env.run_until_complete(write_much(env, std::string(directory) + "/f"));
  // A thread that has written may not be idle yet when the next write begins.
  EXPECT_LE(env.worker_threads(), 3 * ProductionFile::kBufferedWriters);
  std::filesystem::remove_all(directory);
}

// As many at once as there are threads: each job waits until all of them run.
Task<void> all_at_once(ProductionEnv& env, int jobs) {
  Gate gate(env.executor());
  std::atomic<int> arrived = 0;
  const auto one = [](ProductionEnv& e, std::atomic<int>& a, int all) -> Task<void> {
    co_await e.run_on_worker([&a, all] {
      ++a;
      while (a.load() < all) std::this_thread::yield();
    });
  };
  for (int i = 0; i < jobs; ++i) gate.spawn(one(env, arrived, jobs));
  co_await gate.close();
}

TEST(ProductionEnv, JobsRunInParallel) {
  ProductionOptions options;
  options.max_workers = 4;
  ProductionEnv env(options);
  for (int i = 0; i < 20; ++i) env.run_until_complete(all_at_once(env, 4));
  EXPECT_EQ(env.worker_threads(), 4U);
}

Task<void> until_no_thread(ProductionEnv& env) {
  while (env.worker_threads() > 0) co_await env.sleep(100'000);
}

TEST(ProductionEnv, IdleThreadsEndAndNewOnesStart) {
  ProductionOptions options;
  options.worker_idle = 1;
  ProductionEnv env(options);
  std::atomic<int> done = 0;
  for (int i = 0; i < 5; ++i) {
    env.run_until_complete(all_at_once(env, 8));
    env.run_until_complete(until_no_thread(env));
    env.run_until_complete(many_on_workers(env, 50, done));
  }
  EXPECT_EQ(done.load(), 250);
}

TEST(ProductionEnv, RunsUntilStopped) {
  ProductionEnv env;
  env.stop();
  env.run();
  int seen = 0;
  const auto stop_later = [](ProductionEnv& e, int& s) -> Task<void> {
    co_await e.sleep(1'000'000);
    ++s;
    e.stop();
  };
  {
    Gate gate(env.executor());
    gate.spawn(stop_later(env, seen));
    env.run();
    env.run_until_complete(gate.close());
  }
  EXPECT_EQ(seen, 1);
}

TEST(ProductionEnv, SignalsBecomeCalls) {
  ProductionEnv env;
  std::vector<int> seen;
  const std::thread::id engine = std::this_thread::get_id();
  env.on_signal(SIGHUP, [&] {
    EXPECT_EQ(std::this_thread::get_id(), engine);
    seen.push_back(SIGHUP);
    ::raise(SIGTERM);
  });
  env.on_signal(SIGTERM, [&] {
    seen.push_back(SIGTERM);
    env.stop();
  });
  // From another thread, while the loop sleeps.
  std::thread other([] { ::kill(::getpid(), SIGHUP); });
  env.run();
  other.join();
  EXPECT_EQ(seen, (std::vector<int>{SIGHUP, SIGTERM}));
}

TEST(ProductionEnv, SignalHandlersAreGivenBack) {
  struct sigaction before, after;
  ::sigaction(SIGHUP, nullptr, &before);
  {
    ProductionEnv env;
    env.on_signal(SIGHUP, [] {});
  }
  ::sigaction(SIGHUP, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

TEST(ProductionEnv, RandomRepeatsWithASeed) {
  ProductionOptions options;
  options.seed = 7;
  ProductionEnv a(options), b(options), c;
  EXPECT_EQ(a.random(), b.random());
  EXPECT_NE(a.random(), c.random());
}

// Coroutines that are always ready must not keep events from being seen.
Task<void> busy_until(Env& env, const bool& stop) {
  while (!stop) co_await env.executor().yield();
}

Task<void> sleep_then(Env& env, bool& flag) {
  co_await env.sleep(2'000'000);
  co_await env.run_on_worker([] {});
  flag = true;
}

Task<void> fairness(Env& env) {
  Gate gate(env.executor());
  bool flag = false;
  gate.spawn(busy_until(env, flag));
  gate.spawn(sleep_then(env, flag));
  co_await gate.close();
}

TEST(ProductionEnv, EventsAreSeenWhileCoroutinesAreBusy) {
  ProductionEnv env;
  env.run_until_complete(fairness(env));
}

// Long ones too: an event is not kept waiting for as many of these as there may be of short ones.
Task<void> long_turns(Env& env, int& turns, const bool& stop) {
  for (; !stop; ++turns) {
    for (const int64_t end = env.now() + 1'000'000; env.now() < end;) continue;
    co_await env.executor().yield();
  }
}

Task<void> due_at_once(Env& env, const int& turns, int& turns_before, bool& flag) {
  co_await env.sleep(1);
  turns_before = turns;
  flag = true;
}

Task<void> fairness_to_long_turns(Env& env) {
  Gate gate(env.executor());
  bool flag = false;
  int turns = 0;
  int turns_before = 0;
  gate.spawn(long_turns(env, turns, flag));
  gate.spawn(due_at_once(env, turns, turns_before, flag));
  co_await gate.close();
  EXPECT_LE(turns_before, 2);
}

TEST(ProductionEnv, EventsAreSeenBetweenLongTurns) {
  ProductionEnv env;
  env.run_until_complete(fairness_to_long_turns(env));
}

}  // namespace
}  // namespace blockbed
