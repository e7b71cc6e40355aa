// Executor: where ready coroutines wait for their turn.
//
// Contract: post() queues a suspended coroutine; it is resumed later, never inside post(). The
// production executor resumes in order of posting; the simulator chooses among the ready ones by
// its seed, so no code may rely on an order between two posted coroutines that it did not enforce
// with a lock or a wait. Threading: engine thread only. Workers hand their results back inside the
// Env implementations.
#pragma once

#include <coroutine>

namespace blockbed {

class Executor {
 public:
  virtual ~Executor() = default;

  virtual void post(std::coroutine_handle<> coroutine) = 0;
  // Told by wait queues when a coroutine begins to wait for another one, so that the simulator can
  // say who waits in a deadlock.
  virtual void waits(std::coroutine_handle<>) {}

  // `co_await executor.yield()`: lets every other ready coroutine take a turn.
  auto yield() {
    struct Awaiter {
      Executor& executor;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> coroutine) const { executor.post(coroutine); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }
};

}  // namespace blockbed
