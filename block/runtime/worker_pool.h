// WorkerPool: threads for what burns or blocks.
//
// Problem: a system call that waits for a disk, or a compression, must not stop the engine.
//
// Contract
//  - `co_await pool.run(function)` calls function() on a worker and resumes on the engine's thread
//    with its value. The function and its value live in the awaiting frame: nothing is allocated.
//  - Threads start on first use, one for each job that finds none idle, up to the maximum; one that
//    was idle for a while ends. Jobs beyond the threads wait in order.
//  - Workers block every signal: handlers run on the engine's thread.
//  - The pool dies with no job inside.
// Threading: run() on the engine's thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "block/runtime/event_loop.h"

namespace blockbed {

class WorkerPool {
 public:
  // Enough for a disk's queue to see parallel requests; each costs a stack and a wake.
  static constexpr unsigned kMaxThreads = 16;

  static constexpr std::chrono::milliseconds kIdle{10'000};

  explicit WorkerPool(EventLoop& loop, unsigned max_threads = kMaxThreads,
                      std::chrono::milliseconds idle = kIdle)
      : loop_(loop), max_threads_(max_threads), idle_time_(idle) {}
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  struct Job : EventLoop::Completion {
    void (*call)(Job&) = nullptr;
    Job* next_job = nullptr;
  };
  void submit(Job& job);

  template <class Function>
  auto run(Function function) {
    return Awaiter<Function>(*this, std::move(function));
  }

  unsigned threads() const;

 private:
  template <class Function>
  struct Awaiter : Job {
    using Value = std::invoke_result_t<Function&>;
    static constexpr bool kVoid = std::is_void_v<Value>;

    WorkerPool& pool;
    Function function;
    std::conditional_t<kVoid, bool, std::optional<std::conditional_t<kVoid, bool, Value>>> value{};

    Awaiter(WorkerPool& p, Function f) : pool(p), function(std::move(f)) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      this->coroutine = waiter;
      this->call = [](Job& job) {
        auto& self = static_cast<Awaiter&>(job);
        if constexpr (kVoid) {
          self.function();
        } else {
          self.value.emplace(self.function());
        }
      };
      pool.submit(*this);
    }
    Value await_resume() {
      if constexpr (!kVoid) return std::move(*value);
    }
  };

  void serve();

  EventLoop& loop_;
  const unsigned max_threads_;
  const std::chrono::milliseconds idle_time_;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  Job* first_ = nullptr;
  Job* last_ = nullptr;
  std::size_t waiting_jobs_ = 0;
  std::size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
  // Threads that have ended or are about to, to be joined by the engine's thread.
  std::vector<std::thread::id> ended_;
};

}  // namespace blockbed
