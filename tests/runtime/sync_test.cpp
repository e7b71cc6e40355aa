#include "block/runtime/sync.h"

#include <gtest/gtest.h>

#include <string>

#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "tests/support/seed_runner.h"

// On the simulator: whatever order it chooses, the locks must keep theirs.
namespace blockbed {
namespace {

using sim::for_each_seed;
using sim::SimEnv;

Task<void> hold(SimEnv& env, Mutex& mutex, int& inside, int& total) {
  for (int i = 0; i < 5; ++i) {
    const MutexGuard guard = co_await mutex.lock();
    EXPECT_EQ(++inside, 1);
    co_await env.delay(env.chance().between(0, 50));
    EXPECT_EQ(--inside, 0);
    ++total;
  }
}

Task<void> many_hold(SimEnv& env) {
  Mutex mutex(env.executor());
  Gate gate(env.executor());
  int inside = 0;
  int total = 0;
  for (int i = 0; i < 8; ++i) gate.spawn(hold(env, mutex, inside, total));
  co_await gate.close();
  EXPECT_EQ(total, 40);
  EXPECT_FALSE(mutex.locked());
}

TEST(Mutex, LetsOneInAtATime) {
  for_each_seed(50, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(many_hold(env));
  });
}

Task<void> queue_for(Mutex& mutex, std::string& order, char name) {
  const MutexGuard guard = co_await mutex.lock();
  order += name;
}

Task<void> order_of_arrival(SimEnv& env) {
  Mutex mutex(env.executor());
  Gate gate(env.executor());
  std::string order;
  MutexGuard guard = co_await mutex.lock();
  for (const char name : {'a', 'b', 'c'}) gate.spawn(queue_for(mutex, order, name));
  EXPECT_FALSE(mutex.try_lock().owns());
  guard.unlock();
  // Handed over already: nobody overtakes the first waiter.
  EXPECT_FALSE(mutex.try_lock().owns());
  co_await gate.close();
  EXPECT_EQ(order, "abc");
  EXPECT_TRUE(mutex.try_lock().owns());
}

TEST(Mutex, IsHandedOverInOrderOfArrival) {
  for_each_seed(20, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(order_of_arrival(env));
  });
}

Task<void> use_units(SimEnv& env, Semaphore& units, std::size_t n, std::size_t& used) {
  co_await units.acquire(n);
  used += n;
  EXPECT_LE(used, 5U);
  co_await env.delay(env.chance().between(0, 50));
  used -= n;
  units.release(n);
}

Task<void> many_use_units(SimEnv& env) {
  Semaphore units(env.executor(), 5);
  Gate gate(env.executor());
  std::size_t used = 0;
  for (std::size_t i = 0; i < 20; ++i) gate.spawn(use_units(env, units, 1 + i % 5, used));
  co_await gate.close();
  EXPECT_EQ(units.free_units(), 5U);
}

TEST(Semaphore, NeverGivesMoreThanItHas) {
  for_each_seed(50, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(many_use_units(env));
  });
}

Task<void> big_one_is_not_starved(SimEnv& env) {
  Semaphore units(env.executor(), 4);
  Gate gate(env.executor());
  std::string order;
  const auto take = [](Semaphore& s, std::size_t n, std::string& o, char name) -> Task<void> {
    co_await s.acquire(n);
    o += name;
    s.release(n);
  };
  co_await units.acquire(2);
  gate.spawn(take(units, 4, order, 'L'));
  // There would be room for it, but the large one came first.
  gate.spawn(take(units, 1, order, 's'));
  EXPECT_EQ(order, "");
  units.release(2);
  co_await gate.close();
  EXPECT_EQ(order.front(), 'L');
}

TEST(Semaphore, ServesInOrderOfArrival) {
  SimEnv env(1);
  env.run(big_one_is_not_starved(env));
}

struct Counts {
  int readers = 0;
  int writers = 0;
  int most_readers = 0;
};

Task<void> read_side(SimEnv& env, SharedMutex& mutex, Counts& counts) {
  co_await mutex.lock_shared();
  ++counts.readers;
  counts.most_readers = std::max(counts.most_readers, counts.readers);
  EXPECT_EQ(counts.writers, 0);
  co_await env.delay(env.chance().between(1, 50));
  --counts.readers;
  mutex.unlock_shared();
}

Task<void> write_side(SimEnv& env, SharedMutex& mutex, Counts& counts) {
  co_await mutex.lock();
  EXPECT_EQ(++counts.writers, 1);
  EXPECT_EQ(counts.readers, 0);
  co_await env.delay(env.chance().between(1, 50));
  --counts.writers;
  mutex.unlock();
}

Task<void> share(SimEnv& env, Counts& counts) {
  SharedMutex mutex(env.executor());
  Gate gate(env.executor());
  for (int i = 0; i < 30; ++i) {
    if (i % 5 == 4) {
      gate.spawn(write_side(env, mutex, counts));
    } else {
      gate.spawn(read_side(env, mutex, counts));
    }
  }
  co_await gate.close();
}

TEST(SharedMutex, ManyReadersOrOneWriter) {
  int most = 0;
  for_each_seed(50, [&most](uint64_t seed) {
    SimEnv env(seed);
    Counts counts;
    env.run(share(env, counts));
    most = std::max(most, counts.most_readers);
  });
  EXPECT_EQ(most, 4);
}

Task<void> writer_first(SimEnv& env) {
  SharedMutex mutex(env.executor());
  Gate gate(env.executor());
  Counts counts;
  co_await mutex.lock_shared();
  gate.spawn(write_side(env, mutex, counts));
  gate.spawn(read_side(env, mutex, counts));
  EXPECT_EQ(counts.readers, 0);
  mutex.unlock_shared();
  co_await gate.close();
}

TEST(SharedMutex, AWaitingWriterHoldsBackLaterReaders) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(writer_first(env));
  });
}

Task<void> pass(Event& event, int& passed) {
  co_await event.wait();
  ++passed;
}

Task<void> event_lets_pass(SimEnv& env) {
  Event event(env.executor());
  Gate gate(env.executor());
  int passed = 0;
  gate.spawn(pass(event, passed));
  gate.spawn(pass(event, passed));
  EXPECT_EQ(passed, 0);
  event.set();
  event.reset();
  EXPECT_EQ(passed, 0);  // posted, not resumed inside set()
  co_await gate.wait_idle();
  EXPECT_EQ(passed, 2);
  gate.spawn(pass(event, passed));
  EXPECT_EQ(passed, 2);
  event.set();
  gate.spawn(pass(event, passed));
  EXPECT_EQ(passed, 3);
  co_await gate.close();
  EXPECT_EQ(passed, 4);
}

TEST(Event, LetsWaitersPass) {
  SimEnv env(1);
  env.run(event_lets_pass(env));
}

Task<void> gate_waits(SimEnv& env) {
  Gate gate(env.executor());
  bool ended = false;
  const auto work = [](SimEnv& e, bool& flag) -> Task<void> {
    co_await e.delay(1000);
    flag = true;
  };
  gate.spawn(work(env, ended));
  EXPECT_TRUE(gate.try_enter());
  EXPECT_EQ(gate.inside(), 2U);
  const auto leave_later = [](SimEnv& e, Gate& g) -> Task<void> {
    co_await e.delay(5000);
    EXPECT_TRUE(g.closed());
    EXPECT_FALSE(g.try_enter());
    g.leave();
  };
  Gate other(env.executor());
  other.spawn(leave_later(env, gate));
  co_await gate.close();
  EXPECT_TRUE(ended);
  EXPECT_EQ(env.now(), SimEnv::kBeginning + 5000);
  co_await other.close();
}

TEST(Gate, WaitsForAllInside) {
  SimEnv env(1);
  env.run(gate_waits(env));
}

}  // namespace
}  // namespace blockbed
