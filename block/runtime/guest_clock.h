// GuestClock: the time by which a guest's disks are served: throttling and accounting.
//
// Problem: a test wants to see what a limit of ten requests a second does in an hour, without
// waiting for an hour, and exactly. So what belongs to the guest goes by a clock of its own, which
// follows the Env's until somebody holds it and moves it by hand.
//
// Contract
//  - now() begins at 0 when the clock is made.
//  - hold(time): from here on the clock stands at `time`; step_to() moves it, and every alarm on
//    the way rings at its own time, in order of time. There is no way back.
//  - An alarm rings once, on the engine's thread, as a call: it may arm itself and others again,
//    and posts whom it wakes. Alarms die before the clock.
//  - Nothing runs, and no timer is armed in the Env, while no alarm is armed. close() waits until
//    that is so.
// Units: nanoseconds. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "block/runtime/alarm_heap.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"

namespace blockbed {

class GuestAlarm;

class GuestClock {
 public:
  explicit GuestClock(Env& env);
  ~GuestClock();
  GuestClock(const GuestClock&) = delete;
  GuestClock& operator=(const GuestClock&) = delete;

  int64_t now() const { return held_ ? held_at_ : env_.now() - origin_; }
  bool held() const { return held_; }
  void hold(int64_t time);
  // Held clocks only; an earlier time than now() moves nothing.
  void step_to(int64_t time);
  // The time of the next alarm; `otherwise` when there is none.
  int64_t next_alarm(int64_t otherwise) const {
    return alarms_.empty() ? otherwise : alarms_.earliest();
  }

  // No alarm is armed any more.
  Task<void> close();

 private:
  friend class GuestAlarm;

  void arm(GuestAlarm& alarm, int64_t deadline);
  void disarm(GuestAlarm& alarm);
  void ring_until(int64_t time);
  // Keeps the Env's timer at the earliest alarm.
  Task<void> follow();

  Env& env_;
  const int64_t origin_;
  bool held_ = false;
  int64_t held_at_ = 0;
  AlarmHeap alarms_;
  std::unique_ptr<Timer> timer_;
  bool following_ = false;
  // What timer_ waits for while following.
  int64_t wakes_at_ = 0;
  Gate gate_;
};

class GuestAlarm {
 public:
  GuestAlarm(GuestClock& clock, std::function<void()> ring)
      : clock_(clock), ring_(std::move(ring)) {
    entry_.owner = this;
  }
  ~GuestAlarm() { disarm(); }
  GuestAlarm(const GuestAlarm&) = delete;
  GuestAlarm& operator=(const GuestAlarm&) = delete;

  bool armed() const { return entry_.armed(); }
  // Replaces an earlier deadline; one that has passed rings at the next turn of the clock.
  void arm(int64_t deadline) { clock_.arm(*this, deadline); }
  void disarm() {
    if (armed()) clock_.disarm(*this);
  }

 private:
  friend class GuestClock;
  struct Entry : Alarm {
    GuestAlarm* owner = nullptr;
  };

  GuestClock& clock_;
  std::function<void()> ring_;
  Entry entry_;
};

}  // namespace blockbed
