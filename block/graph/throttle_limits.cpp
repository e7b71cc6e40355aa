#include "block/graph/throttle_limits.h"

#include <fmt/format.h>

#include <algorithm>

namespace blockbed {

bool ThrottleLimits::enabled() const {
  return std::ranges::any_of(buckets,
                             [](const ThrottleBucket& bucket) { return bucket.average > 0; });
}

Expected<void> check_throttle_limits(const ThrottleLimits& limits) {
  using S = ThrottleLimits;
  const auto& b = limits.buckets;
  const auto conflict = [&](int total, int read, int write) {
    return (b[total].average != 0 && (b[read].average != 0 || b[write].average != 0)) ||
           (b[total].maximum != 0 && (b[read].maximum != 0 || b[write].maximum != 0));
  };
  if (conflict(S::kBpsTotal, S::kBpsRead, S::kBpsWrite) ||
      conflict(S::kIopsTotal, S::kIopsRead, S::kIopsWrite)) {
    return fail("bps/iops/max total values and read/write values cannot be used at the same time");
  }
  if (limits.iops_size != 0 && b[S::kIopsTotal].average == 0 && b[S::kIopsRead].average == 0 &&
      b[S::kIopsWrite].average == 0) {
    return fail("iops size requires an iops value to be set");
  }
  for (const ThrottleBucket& bucket : b) {
    if (bucket.average < 0 || bucket.maximum < 0 || bucket.average > kMaxThrottleValue ||
        bucket.maximum > kMaxThrottleValue) {
      return fail(fmt::format("bps/iops/max values must be within [0, {}]", kMaxThrottleValue));
    }
    if (bucket.burst_length == 0) return fail("the burst length cannot be 0");
    if (bucket.burst_length > 1 && bucket.maximum == 0)
      return fail("burst length set without burst rate");
    if (bucket.maximum != 0 &&
        bucket.burst_length > static_cast<uint64_t>(kMaxThrottleValue / bucket.maximum)) {
      return fail("burst length too high for this burst rate");
    }
    if (bucket.maximum != 0 && bucket.average == 0) {
      return fail("bps_max/iops_max require corresponding bps/iops values");
    }
    if (bucket.maximum != 0 && bucket.maximum < bucket.average) {
      return fail("bps_max/iops_max cannot be lower than bps/iops");
    }
  }
  return {};
}

}  // namespace blockbed
