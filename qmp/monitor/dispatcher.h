// One command at a time, over all monitors.
//
// Problem: commands change the one block graph; QEMU runs the in-band commands of all its monitors
// one after the other, and clients rely on that. Contract: jobs run in the order in which they were
// submitted; the next begins when the coroutine of the one before has ended. Out-of-band commands
// do not come here. Threading: engine thread.
#pragma once

#include <deque>
#include <functional>

#include "block/runtime/gate.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

class Dispatcher {
 public:
  using Job = std::function<Task<void>()>;

  explicit Dispatcher(Executor& executor) : gate_(executor), wake_(executor) {}

  void start();
  // After stop() began, what is submitted is dropped.
  void submit(Job job);
  // Drops what waits and returns after the job that runs has ended.
  Task<void> stop();

 private:
  Task<void> run();

  Gate gate_;
  WaitQueue wake_;
  std::deque<Job> waiting_;
  bool stopping_ = false;
};

}  // namespace blockbed
