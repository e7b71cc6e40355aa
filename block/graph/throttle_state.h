// ThrottleState: how full the buckets of a set of limits are.
//
// Problem: a limit must hold in the long run, let short bursts pass, and cost nothing while nobody
// is near it.
//
// Contract: each limit is a leaky bucket as a meter. What is done is poured in (account()), and it
// leaks at the limit's rate; while more than the bucket's size is in it, nothing may be done.
//  - Without bursts a bucket holds a tenth of a second.
//  - With bursts it holds as much as the burst rate gives in the burst's length; when that is
//    longer than a second, a second bucket that leaks at the burst rate, of a tenth of a second,
//    keeps the burst itself even.
//  - A request is never split: it may go when the bucket is not above its size, and may then fill
//    it by more.
// Units: bytes, operations, nanoseconds of the caller's clock, which never goes back. Source of the
// rules: docs/throttle.txt of QEMU 7.2, and its behaviour measured. Threading: plain data.
#pragma once

#include <array>
#include <cstdint>

#include "block/graph/throttle_limits.h"

namespace blockbed {

enum class ThrottleDirection { kRead, kWrite };

class ThrottleState {
 public:
  const ThrottleLimits& limits() const { return limits_; }
  // All buckets are empty again.
  void set_limits(const ThrottleLimits& limits, int64_t now);

  // 0: a request may go now; otherwise when to ask again.
  int64_t wait(ThrottleDirection direction, int64_t now);
  void account(ThrottleDirection direction, uint64_t bytes);

 private:
  struct Level {
    double average = 0;
    double burst = 0;
  };

  void leak(int64_t now);

  ThrottleLimits limits_;
  std::array<Level, ThrottleLimits::kBuckets> levels_;
  int64_t leaked_at_ = 0;
};

}  // namespace blockbed
