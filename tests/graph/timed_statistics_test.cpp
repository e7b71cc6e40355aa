#include "block/graph/timed_statistics.h"

#include <gtest/gtest.h>

namespace blockbed {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(TimedStatistics, KnowsNothingAtFirst) {
  TimedStatistics statistics(10 * kSecond, 5 * kSecond);
  const auto report = statistics.report(7 * kSecond);
  EXPECT_EQ(report.shortest, 0);
  EXPECT_EQ(report.longest, 0);
  EXPECT_EQ(report.average, 0);
  EXPECT_EQ(report.queue_depth, 0);
}

TEST(TimedStatistics, ReportsWhatItWasTold) {
  TimedStatistics statistics(9 * kSecond, 5 * kSecond);
  statistics.account(kSecond / 2, 6 * kSecond);
  statistics.account(kSecond, 7 * kSecond);
  statistics.account(kSecond * 3 / 2, 8 * kSecond);
  const auto report = statistics.report(9 * kSecond);
  EXPECT_EQ(report.shortest, kSecond / 2);
  EXPECT_EQ(report.longest, kSecond * 3 / 2);
  EXPECT_EQ(report.average, kSecond);
  // Three seconds of requests in four; the window began six before that.
  EXPECT_DOUBLE_EQ(report.queue_depth, 0.3);
  // The other one began when all did, at 5.
  EXPECT_DOUBLE_EQ(statistics.report(15 * kSecond).queue_depth, 0.3);
}

TEST(TimedStatistics, RemembersTwoThirdsOfAnIntervalAndForgetsAfterFour) {
  for (int64_t at = 0; at < 30; ++at) {
    TimedStatistics statistics(9 * kSecond, 0);
    statistics.account(7, at * kSecond);
    for (int64_t later = at; later < at + 60; ++later) {
      const bool known = statistics.report(later * kSecond).longest == 7;
      if (later < at + 6) EXPECT_TRUE(known) << at << " " << later;
      if (later >= at + 12) EXPECT_FALSE(known) << at << " " << later;
    }
  }
}

TEST(TimedStatistics, TheLongestInterval) {
  TimedStatistics statistics(int64_t{UINT32_MAX} * kSecond, 0);
  statistics.account(7, kSecond);
  EXPECT_EQ(statistics.report(int64_t{UINT32_MAX} * kSecond / 2).longest, 7);
}

}  // namespace
}  // namespace blockbed
