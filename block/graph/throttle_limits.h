// ThrottleLimits: what may be asked of a throttle, whoever asks: -drive, a throttle-group object,
// block_set_io_throttle.
//
// Units: bytes or operations a second; burst lengths in seconds. Source of the rules and texts:
// QEMU 7.2. Threading: plain data.
#pragma once

#include <array>
#include <cstdint>

#include "qmp/schema/error.h"

namespace blockbed {

// QEMU's limit: sums of two rates still fit a double exactly.
inline constexpr int64_t kMaxThrottleValue = 1'000'000'000'000'000;

struct ThrottleBucket {
  // The rate that holds in the long run; 0: no limit.
  int64_t average = 0;
  // The rate of bursts; 0: no bursts.
  int64_t maximum = 0;
  uint64_t burst_length = 1;

  friend bool operator==(const ThrottleBucket&, const ThrottleBucket&) = default;
};

struct ThrottleLimits {
  enum Bucket { kBpsTotal, kBpsRead, kBpsWrite, kIopsTotal, kIopsRead, kIopsWrite, kBuckets };
  std::array<ThrottleBucket, kBuckets> buckets;
  // An operation counts as several when it is larger; 0: always as one.
  uint64_t iops_size = 0;

  // Any of the limits is one.
  bool enabled() const;

  friend bool operator==(const ThrottleLimits&, const ThrottleLimits&) = default;
};

Expected<void> check_throttle_limits(const ThrottleLimits& limits);

}  // namespace blockbed
