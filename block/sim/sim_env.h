// SimEnv: an Env in which nothing happens that the seed did not decide.
//
// Problem: a race that shows once in a thousand runs, a crash between two writes, a disk that is
// full in the middle of a backup: to test for these, a run must be repeatable, fast, and different
// for every seed.
//
// Contract
//  - One thread. Which of the ready coroutines runs next is drawn from the seed.
//  - Time is virtual and stands still while anything is ready; then it jumps to the next deadline.
//  - Files are those of storage() (sim_storage.h), connections those of network() (sim_network.h).
//    run_on_worker() runs the work on this thread after a delay that the seed decides.
//  - The same seed and the same code give the same trace_hash(). With BLOCKBED_TRACE set in the
//    process's environment every event is printed to standard error.
//  - A run that cannot go on (nothing ready, no deadline, the root unfinished) prints who waits and
//    ends the process; so does one that takes more than max_steps turns.
//  - It dies last, when no coroutine is ready or waiting in it.
// Units: nanoseconds of virtual time, which begins at kBeginning. Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "block/runtime/alarm_heap.h"
#include "block/runtime/env.h"
#include "block/runtime/root.h"
#include "block/sim/sim_random.h"

namespace blockbed::sim {

class SimStorage;
class SimNetwork;

struct SimOptions {
  // How long a worker takes.
  int64_t worker_min = 1'000;
  int64_t worker_max = 300'000;
  // A livelock is found after this many turns.
  uint64_t max_steps = 50'000'000;

  SimOptions() = default;
};

class SimEnv final : public Env {
 public:
  static constexpr int64_t kBeginning = 1'000'000'000;
  // 2030-01-01: far from any date that a bug would produce.
  static constexpr int64_t kWallBeginning = 1'893'456'000;

  explicit SimEnv(uint64_t seed, SimOptions options = {});
  ~SimEnv() override;

  uint64_t seed() const { return seed_; }
  SimStorage& storage() { return *storage_; }
  SimNetwork& network() { return *network_; }
  // For the test's own decisions; the engine's are random().
  SimRandom& chance() { return test_random_; }

  template <class T>
  T run(Task<T> task) {
    bool done = false;
    if constexpr (std::is_void_v<T>) {
      drive(std::move(task), done);
      run_until(done);
    } else {
      std::optional<T> result;
      drive(std::move(task), result, done);
      run_until(done);
      return std::move(*result);
    }
  }

  Executor& executor() override { return executor_; }
  int64_t now() const override { return now_; }
  WallTime wall_time() const override;
  std::unique_ptr<Timer> make_timer() override;
  uint64_t random() override { return engine_random_.next(); }
  Task<void> run_on_worker(std::function<void()> work) override;
  Task<Result<std::unique_ptr<File>>> open_file(std::string path, FileOpenOptions options) override;
  Task<Result<void>> unlink(std::string path) override;
  Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress address) override;
  Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress address) override;
  Result<std::unique_ptr<Listener>> adopt_listener(int descriptor) override;
  Result<std::unique_ptr<Stream>> adopt_stream(int read_descriptor, int write_descriptor) override;

  uint64_t steps() const { return steps_; }
  uint64_t trace_hash() const { return trace_hash_; }
  // Adds an event to the trace. The numbers must not depend on addresses or real time.
  void note(std::string_view what, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0);

  // `co_await env.delay(ns)`: for the parts of the simulator.
  auto delay(int64_t nanoseconds) {
    struct Awaiter {
      SimEnv& env;
      Alarm alarm;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> waiter) {
        alarm.waiter = waiter;
        env.arm(alarm);
      }
      void await_resume() const noexcept {}
    };
    Awaiter awaiter{*this, {}};
    awaiter.alarm.deadline = now_ + nanoseconds;
    return awaiter;
  }
  void arm(Alarm& alarm) { alarms_.arm(alarm); }
  void disarm(Alarm& alarm) { alarms_.disarm(alarm); }

 private:
  class SimExecutor final : public Executor {
   public:
    explicit SimExecutor(SimEnv& env) : env_(env) {}
    void post(std::coroutine_handle<> coroutine) override;
    void waits(std::coroutine_handle<> coroutine) override;

   private:
    SimEnv& env_;
  };

  void run_until(const bool& done);
  [[noreturn]] void stuck(const char* how) const;

  const uint64_t seed_;
  const SimOptions options_;
  SimExecutor executor_{*this};
  SimRandom schedule_random_;
  SimRandom engine_random_;
  SimRandom worker_random_;
  SimRandom test_random_;

  int64_t now_ = kBeginning;
  std::vector<std::coroutine_handle<>> ready_;
  AlarmHeap alarms_;
  std::unordered_set<void*> waiting_;
  uint64_t steps_ = 0;
  uint64_t trace_hash_;
  const bool print_trace_;

  std::unique_ptr<SimStorage> storage_;
  std::unique_ptr<SimNetwork> network_;
};

}  // namespace blockbed::sim
