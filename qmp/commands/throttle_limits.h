// What may be asked of a throttle: the checks common to -drive, throttle-group and
// block_set_io_throttle.
//
// Units: bytes or operations a second; burst lengths in seconds. Source of the rules and texts:
// QEMU 7.2. Threading: pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "qmp/schema/error.h"

namespace blockbed {

// QEMU's limit: sums of two rates still fit a double exactly.
inline constexpr int64_t kMaxThrottleValue = 1'000'000'000'000'000;

struct ThrottleBucket {
  int64_t average = 0;
  int64_t maximum = 0;
  int64_t burst_length = 1;
};

struct ThrottleSettings {
  enum Bucket { kBpsTotal, kBpsRead, kBpsWrite, kIopsTotal, kIopsRead, kIopsWrite, kBuckets };
  std::array<ThrottleBucket, kBuckets> buckets;
  int64_t iops_size = 0;

  bool enabled() const;
};

Expected<void> check_throttle(const ThrottleSettings& settings);

}  // namespace blockbed
