// The part of the copy engine that needs no graph: its rate.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "block/filters/rate_limit.h"

namespace blockbed {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// Runs pieces as fast as the limit lets them and gives the bytes a second of virtual time.
double rate_of(RateLimit& limit, uint64_t piece, int64_t duration) {
  int64_t now = 5 * kSecond;
  const int64_t end = now + duration;
  uint64_t bytes = 0;
  while (now < end) {
    if (const int64_t delay = limit.delay(now); delay > 0) {
      now += delay;
      continue;
    }
    limit.account(piece, now);
    bytes += piece;
  }
  return static_cast<double>(bytes) / (static_cast<double>(duration) / kSecond);
}

TEST(RateLimit, KeepsTheMeanRateWhateverThePiece) {
  for (const uint64_t piece : {4096u, 65536u, 1u << 20}) {
    RateLimit limit;
    limit.set_speed(10'000'000);
    EXPECT_NEAR(rate_of(limit, piece, 60 * kSecond), 10'000'000, 200'000) << piece;
  }
}

TEST(RateLimit, APieceLargerThanTheSpeedGoesAtOnceAndIsPaidForLater) {
  RateLimit limit;
  limit.set_speed(65536);
  EXPECT_EQ(limit.delay(kSecond), 0);
  limit.account(1 << 20, kSecond);
  EXPECT_NEAR(static_cast<double>(limit.delay(kSecond)), 16e9, 0.2e9);
}

TEST(RateLimit, DoesNotCatchUpAfterIdling) {
  RateLimit limit;
  limit.set_speed(1'000'000);
  limit.account(1000, kSecond);
  const int64_t later = 100 * kSecond;
  uint64_t at_once = 0;
  while (limit.delay(later) == 0) {
    limit.account(1000, later);
    at_once += 1000;
  }
  EXPECT_LE(at_once, 110'000u);  // a tenth of a second's worth
}

TEST(RateLimit, ANewSpeedHoldsAtOnceAndNoSpeedIsNoLimit) {
  RateLimit limit;
  limit.set_speed(1);
  limit.account(1 << 20, kSecond);
  EXPECT_GT(limit.delay(kSecond), 1000 * kSecond);
  limit.set_speed(1'000'000);
  EXPECT_EQ(limit.delay(kSecond), 0);
  limit.account(1 << 20, kSecond);
  limit.set_speed(0);
  EXPECT_EQ(limit.delay(kSecond), 0);
  limit.account(UINT64_MAX, kSecond);
  EXPECT_EQ(limit.delay(kSecond), 0);
  // The longest pause does not overflow the clock.
  limit.set_speed(1);
  limit.account(UINT64_MAX, kSecond);
  EXPECT_GT(limit.delay(kSecond), 0);
}

TEST(RateLimit, NobodyGetsAheadByAskingAgain) {
  RateLimit limit;
  limit.set_speed(65536);
  limit.account(1 << 20, kSecond);
  const int64_t delay = limit.delay(kSecond);
  limit.set_speed(65536);
  EXPECT_EQ(limit.delay(kSecond), delay);
  limit.set_speed(1000);
  EXPECT_EQ(limit.delay(kSecond), delay);
  limit.set_speed(65536);
  EXPECT_EQ(limit.delay(kSecond), 0);
}

}  // namespace
}  // namespace blockbed
