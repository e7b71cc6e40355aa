#include "block/graph/throttle_state.h"

#include <algorithm>
#include <cmath>

namespace blockbed {

namespace {

constexpr double kSecond = 1e9;
// What a bucket without bursts holds, in seconds of its rate: no timer is so exact that less would
// reach the rate.
constexpr double kSlack = 0.1;
// A year: a rate of 1 must not overflow the clock.
constexpr double kLongestWait = 365.0 * 24 * 3600 * kSecond;

// The buckets that a request of one direction is poured into.
std::array<ThrottleLimits::Bucket, 4> buckets_of(ThrottleDirection direction) {
  using L = ThrottleLimits;
  if (direction == ThrottleDirection::kRead) {
    return {L::kBpsTotal, L::kBpsRead, L::kIopsTotal, L::kIopsRead};
  }
  return {L::kBpsTotal, L::kBpsWrite, L::kIopsTotal, L::kIopsWrite};
}

bool counts_bytes(ThrottleLimits::Bucket bucket) { return bucket <= ThrottleLimits::kBpsWrite; }

double time_to_leak(double excess, int64_t rate) {
  return excess <= 0 ? 0 : excess * kSecond / static_cast<double>(rate);
}

}  // namespace

void ThrottleState::set_limits(const ThrottleLimits& limits, int64_t now) {
  limits_ = limits;
  levels_ = {};
  leaked_at_ = now;
}

void ThrottleState::leak(int64_t now) {
  if (now <= leaked_at_) return;
  const double seconds = static_cast<double>(now - leaked_at_) / kSecond;
  leaked_at_ = now;
  for (int i = 0; i < ThrottleLimits::kBuckets; ++i) {
    const ThrottleBucket& bucket = limits_.buckets[i];
    Level& level = levels_[i];
    level.average = std::max(0.0, level.average - static_cast<double>(bucket.average) * seconds);
    level.burst = std::max(0.0, level.burst - static_cast<double>(bucket.maximum) * seconds);
  }
}

int64_t ThrottleState::wait(ThrottleDirection direction, int64_t now) {
  leak(now);
  double longest = 0;
  for (const ThrottleLimits::Bucket i : buckets_of(direction)) {
    const ThrottleBucket& bucket = limits_.buckets[i];
    if (bucket.average == 0) continue;
    const Level& level = levels_[i];
    if (bucket.maximum == 0) {
      const double size = static_cast<double>(bucket.average) * kSlack;
      longest = std::max(longest, time_to_leak(level.average - size, bucket.average));
      continue;
    }
    const double maximum = static_cast<double>(bucket.maximum);
    const double size = maximum * static_cast<double>(bucket.burst_length);
    longest = std::max(longest, time_to_leak(level.average - size, bucket.average));
    if (bucket.burst_length > 1) {
      longest = std::max(longest, time_to_leak(level.burst - maximum * kSlack, bucket.maximum));
    }
  }
  // Less than a nanosecond is what the arithmetic leaves over.
  return longest < 1 ? 0 : static_cast<int64_t>(std::ceil(std::min(longest, kLongestWait)));
}

void ThrottleState::account(ThrottleDirection direction, uint64_t bytes) {
  const double operations =
      limits_.iops_size != 0 && bytes > limits_.iops_size
          ? static_cast<double>(bytes) / static_cast<double>(limits_.iops_size)
          : 1;
  for (const ThrottleLimits::Bucket i : buckets_of(direction)) {
    const double units = counts_bytes(i) ? static_cast<double>(bytes) : operations;
    levels_[i].average += units;
    levels_[i].burst += units;
  }
}

}  // namespace blockbed
