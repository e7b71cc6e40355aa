// Task<T>: an owned, lazy coroutine.
//
// Problem: block I/O is a tree of operations that wait for each other. Each must have an owner that
// outlives it, and a chain of a thousand completions must not grow the stack.
//
// Contract
//  - A Task does nothing until it is awaited (`co_await std::move(task)` or `co_await f()`), and is
//    awaited once.
//  - The awaiting coroutine is suspended meanwhile and resumed by the task's end directly
//    (symmetric transfer), on the same thread, with no turn of the event loop in between.
//  - A Task that was started must end before the Task object dies: asserted. Background work goes
//    into a Gate (gate.h).
//  - Expected failures are values (Result<T>, Expected<T>). An exception that leaves a coroutine
//    ends the process.
// Threading: a task runs on the engine's thread only.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/frame_pool.h"

namespace blockbed {

template <class T = void>
class Task;

namespace task_detail {

struct PromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();

  static void* operator new(std::size_t size) { return frame_pool::allocate(size); }
  static void operator delete(void* block, std::size_t size) { frame_pool::release(block, size); }

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      return ended.promise().continuation;
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  FinalAwaiter final_suspend() const noexcept { return {}; }
  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;

  Task<T> get_return_object() noexcept;
  // The default lets `co_return {}` mean a T.
  template <class U = T>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const noexcept {}
};

}  // namespace task_detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = task_detail::Promise<T>;
  using value_type = T;

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  Task(Task&& other) noexcept
      : coroutine_(std::exchange(other.coroutine_, {})),
        started_(std::exchange(other.started_, false)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      destroy();
      coroutine_ = std::exchange(other.coroutine_, {});
      started_ = std::exchange(other.started_, false);
    }
    return *this;
  }
  ~Task() { destroy(); }

  bool valid() const { return static_cast<bool>(coroutine_); }

  struct Awaiter {
    std::coroutine_handle<promise_type> coroutine;

    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) const noexcept {
      coroutine.promise().continuation = awaiting;
      return coroutine;
    }
    T await_resume() const { return coroutine.promise().take(); }
  };

  Awaiter operator co_await() && {
    BB_ASSERT(coroutine_ && !started_);
    started_ = true;
    return Awaiter{coroutine_};
  }

 private:
  void destroy() {
    if (!coroutine_) return;
    BB_ASSERT(!started_ || coroutine_.done());
    coroutine_.destroy();
    coroutine_ = {};
  }

  std::coroutine_handle<promise_type> coroutine_;
  bool started_ = false;
};

namespace task_detail {

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

}  // namespace task_detail

}  // namespace blockbed
