// AlarmTimer: the Timer of an Env that keeps its alarms in an AlarmHeap.
//
// Contract: see Timer. The Env expires the heap by its own clock and posts whom it finds due.
// Threading: engine thread only.
#pragma once

#include "block/runtime/alarm_heap.h"
#include "block/runtime/env.h"

namespace blockbed {

class AlarmTimer final : public Timer {
 public:
  AlarmTimer(AlarmHeap& alarms, Executor& executor) : alarms_(alarms), executor_(executor) {}
  ~AlarmTimer() override { BB_ASSERT(!alarm_.armed()); }

  Task<bool> wait_until(int64_t deadline_ns) override {
    struct Awaiter {
      AlarmTimer& timer;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> waiter) const {
        timer.alarm_.waiter = waiter;
        timer.alarms_.arm(timer.alarm_);
      }
      bool await_resume() const noexcept { return timer.alarm_.fired; }
    };
    BB_ASSERT(!alarm_.armed());
    alarm_.deadline = deadline_ns;
    co_return co_await Awaiter{*this};
  }

  void cancel() override {
    if (!alarm_.armed()) return;
    alarms_.disarm(alarm_);
    executor_.post(alarm_.waiter);
  }

 private:
  AlarmHeap& alarms_;
  Executor& executor_;
  Alarm alarm_;
};

}  // namespace blockbed
