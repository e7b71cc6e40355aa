// drive(): where a tree of Tasks meets an Env's loop.
//
// Problem: a Task starts when it is awaited, so something that is not a Task must await the
// outermost one. Only implementations of Env need this (their run functions); everybody else uses a
// Gate (gate.h).
//
// Contract: drive() starts the task at once, on this stack, up to its first suspension; the root
// frees itself at the end and then sets `done`. What `done` and `result` name must live until then.
// Threading: engine thread only.
#pragma once

#include <optional>
#include <utility>

#include "block/runtime/task.h"

namespace blockbed {

struct Root {
  struct promise_type {
    Root get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
    static void* operator new(std::size_t size) { return frame_pool::allocate(size); }
    static void operator delete(void* block, std::size_t size) { frame_pool::release(block, size); }
  };
};

inline Root drive(Task<void> task, bool& done) {
  {
    Task<void> owned = std::move(task);
    co_await std::move(owned);
  }
  done = true;
}

template <class T>
Root drive(Task<T> task, std::optional<T>& result, bool& done) {
  {
    Task<T> owned = std::move(task);
    result.emplace(co_await std::move(owned));
  }
  done = true;
}

}  // namespace blockbed
