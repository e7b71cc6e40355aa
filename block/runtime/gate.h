// Gate: the owner of background work.
//
// Problem: a coroutine that nobody awaits can outlive what it uses. Every piece of background work
// is therefore started in a gate, and who owns the gate closes it and waits before dying.
//
// Contract
//  - spawn(task) starts the task at once, on this stack, up to its first suspension; it then lives
//    until it ends.
//  - enter()/leave() count work that is not a task of its own (a request on its way through a
//    node).
//  - close() refuses newcomers (try_enter() is false, spawn() asserts) and waits until everything
//    inside has ended.
//  - A gate dies empty: asserted.
// Cancellation is the owner's affair: set the flag or shut the socket that the work looks at, then
// close(). Threading: engine thread only.
#pragma once

#include <cstddef>

#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

class Gate {
 public:
  explicit Gate(Executor& executor) : idle_(executor) {}
  ~Gate() { BB_ASSERT(inside_ == 0); }

  bool closed() const { return closed_; }
  std::size_t inside() const { return inside_; }

  bool try_enter() {
    if (closed_) return false;
    ++inside_;
    return true;
  }
  void leave() {
    BB_ASSERT(inside_ > 0);
    if (--inside_ == 0) idle_.wake_all();
  }

  void spawn(Task<void> task) {
    BB_ASSERT(!closed_);
    ++inside_;
    run(std::move(task), *this);
  }

  // Waits until nothing is inside, without closing: newcomers may enter meanwhile and are waited
  // for too.
  Task<void> wait_idle() {
    while (inside_ > 0) co_await idle_.wait();
  }
  Task<void> close() {
    closed_ = true;
    while (inside_ > 0) co_await idle_.wait();
  }

 private:
  // The root of a spawned task: starts at once, frees itself at the end.
  struct Root {
    struct promise_type {
      Root get_return_object() const noexcept { return {}; }
      std::suspend_never initial_suspend() const noexcept { return {}; }
      std::suspend_never final_suspend() const noexcept { return {}; }
      void return_void() const noexcept {}
      [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
      static void* operator new(std::size_t size) { return frame_pool::allocate(size); }
      static void operator delete(void* block, std::size_t size) {
        frame_pool::release(block, size);
      }
    };
  };
  static Root run(Task<void> task, Gate& gate) {
    {
      Task<void> owned = std::move(task);
      co_await std::move(owned);
    }
    gate.leave();
  }

  WaitQueue idle_;
  std::size_t inside_ = 0;
  bool closed_ = false;
};

}  // namespace blockbed
