// Parallel: the parts of one request, several at a time.
//
// Problem: a request that falls apart into many runs would otherwise wait for each in turn.
//
// Contract: start(task) begins the task at once and waits while kMaxParts are running; finish()
// waits for all, and result() is the first failure. The object dies idle: asserted.
// Threading: engine thread only.
#pragma once

#include <cstddef>

#include "block/runtime/gate.h"
#include "block/runtime/result.h"

namespace blockbed::qcow2 {

class Parallel {
 public:
  // What keeps a disk and the workers busy; more only takes memory.
  static constexpr std::size_t kMaxParts = 8;

  explicit Parallel(Executor& executor) : gate_(executor), free_(executor, kMaxParts) {}

  bool idle() const { return gate_.inside() == 0; }
  bool failed() const { return !result_; }
  const Result<void>& result() const { return result_; }

  Task<void> start(Task<Result<void>> part) {
    co_await free_.acquire();
    gate_.spawn(run(std::move(part)));
  }
  Task<void> finish() { return gate_.close(); }

 private:
  Task<void> run(Task<Result<void>> part) {
    Task<Result<void>> owned = std::move(part);
    auto done = co_await std::move(owned);
    if (!done && result_) result_ = done;
    free_.release();
  }

  Gate gate_;
  Semaphore free_;
  Result<void> result_;
};

}  // namespace blockbed::qcow2
