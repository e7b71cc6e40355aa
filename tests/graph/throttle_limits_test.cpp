#include "block/graph/throttle_limits.h"

#include <gtest/gtest.h>

namespace blockbed {
namespace {

using S = ThrottleLimits;

std::string complaint(const S& settings) {
  auto checked = check_throttle_limits(settings);
  return checked ? "" : checked.error().description;
}

TEST(ThrottleLimits, RatesLieInARange) {
  S settings;
  EXPECT_EQ(complaint(settings), "");
  EXPECT_FALSE(settings.enabled());
  settings.buckets[S::kBpsTotal].average = kMaxThrottleValue;
  EXPECT_EQ(complaint(settings), "");
  EXPECT_TRUE(settings.enabled());
  settings.buckets[S::kBpsTotal].average = kMaxThrottleValue + 1;
  EXPECT_EQ(complaint(settings), "bps/iops/max values must be within [0, 1000000000000000]");
  settings.buckets[S::kBpsTotal].average = -1;
  EXPECT_EQ(complaint(settings), "bps/iops/max values must be within [0, 1000000000000000]");
}

TEST(ThrottleLimits, TotalsExcludeParts) {
  S settings;
  settings.buckets[S::kIopsTotal].average = 10;
  settings.buckets[S::kIopsRead].average = 5;
  EXPECT_EQ(complaint(settings),
            "bps/iops/max total values and read/write values cannot be used at the same time");
}

TEST(ThrottleLimits, BurstsNeedARate) {
  S settings;
  settings.buckets[S::kBpsRead].maximum = 5;
  EXPECT_EQ(complaint(settings), "bps_max/iops_max require corresponding bps/iops values");
  settings.buckets[S::kBpsRead].average = 6;
  EXPECT_EQ(complaint(settings), "bps_max/iops_max cannot be lower than bps/iops");
  settings.buckets[S::kBpsRead].maximum = 0;
  settings.buckets[S::kBpsRead].burst_length = 2;
  EXPECT_EQ(complaint(settings), "burst length set without burst rate");
  settings.buckets[S::kBpsRead].burst_length = 0;
  EXPECT_EQ(complaint(settings), "the burst length cannot be 0");
  settings.buckets[S::kBpsRead] = {1, 1, UINT64_MAX};
  EXPECT_EQ(complaint(settings), "burst length too high for this burst rate");
  settings.buckets[S::kBpsRead] = {kMaxThrottleValue, kMaxThrottleValue, 2};
  EXPECT_EQ(complaint(settings), "burst length too high for this burst rate");
}

TEST(ThrottleLimits, SizeOfAnOperationNeedsARateOfOperations) {
  S settings;
  settings.iops_size = 4096;
  EXPECT_EQ(complaint(settings), "iops size requires an iops value to be set");
  settings.buckets[S::kIopsWrite].average = 1;
  EXPECT_EQ(complaint(settings), "");
}

}  // namespace
}  // namespace blockbed
