// RateLimit: when may the next piece of work begin so that the mean rate is kept.
//
// Problem: a job with a speed must be even on the scale of a tenth of a second, start at once, and
// follow a new speed immediately, also while it waits.
//
// Contract
//  - delay(now) is 0 when work may begin; otherwise the ns to wait before asking again.
//  - account(bytes, now) charges work that begins now. A piece is never split: one that is larger
//    than the speed is charged afterwards by a longer pause.
//  - What was not used is forgotten but for kBurst, so a job that was held up does not catch up
//    with a flood.
//  - Speed 0 is "no limit".
// Units: bytes a second, ns. Threading: plain data.
#pragma once

#include <cstdint>

namespace blockbed {

class RateLimit {
 public:
  // How much unused time may be caught up.
  static constexpr int64_t kBurst = 100'000'000;

  uint64_t speed() const { return speed_; }
  // A higher speed holds from now on: what was charged at the old one is forgotten. Otherwise it is
  // still paid for, so that nobody gets ahead by setting a speed again and again.
  void set_speed(uint64_t bytes_per_second);

  int64_t delay(int64_t now) const;
  void account(uint64_t bytes, int64_t now);

 private:
  uint64_t speed_ = 0;
  // The time at which all that was charged is paid for.
  int64_t paid_at_ = INT64_MIN;
};

}  // namespace blockbed
