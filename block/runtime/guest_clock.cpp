#include "block/runtime/guest_clock.h"

#include <algorithm>

namespace blockbed {

GuestClock::GuestClock(Env& env) : env_(env), origin_(env.now()), gate_(env.executor()) {}

GuestClock::~GuestClock() { BB_ASSERT(alarms_.empty()); }

void GuestClock::hold(int64_t time) {
  held_ = true;
  held_at_ = time;
  if (following_) timer_->cancel();
}

void GuestClock::step_to(int64_t time) {
  BB_ASSERT(held_);
  while (!alarms_.empty() && alarms_.earliest() <= time) {
    held_at_ = std::max(held_at_, alarms_.earliest());
    ring_until(held_at_);
  }
  held_at_ = std::max(held_at_, time);
}

Task<void> GuestClock::close() {
  BB_ASSERT(alarms_.empty());
  co_await gate_.close();
}

void GuestClock::arm(GuestAlarm& alarm, int64_t deadline) {
  if (alarm.armed()) alarms_.disarm(alarm.entry_);
  alarm.entry_.deadline = deadline;
  alarms_.arm(alarm.entry_);
  if (held_) return;
  if (!following_) {
    if (!timer_) timer_ = env_.make_timer();
    gate_.spawn(follow());
  } else if (deadline < wakes_at_) {
    timer_->cancel();
  }
}

void GuestClock::disarm(GuestAlarm& alarm) {
  alarms_.disarm(alarm.entry_);
  if (following_ && alarms_.empty()) timer_->cancel();
}

void GuestClock::ring_until(int64_t time) {
  while (Alarm* due = alarms_.pop_due(time)) static_cast<GuestAlarm::Entry*>(due)->owner->ring_();
}

Task<void> GuestClock::follow() {
  following_ = true;
  while (!held_ && !alarms_.empty()) {
    wakes_at_ = alarms_.earliest();
    co_await timer_->wait_until(origin_ + wakes_at_);
    if (!held_) ring_until(now());
  }
  following_ = false;
}

}  // namespace blockbed
