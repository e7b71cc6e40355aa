// The arithmetic of leaky buckets: what passes in a run is what was asked for.
#include "block/graph/throttle_state.h"

#include <gtest/gtest.h>

#include <tuple>

namespace blockbed {
namespace {

using L = ThrottleLimits;
using Direction = ThrottleDirection;

constexpr int64_t kSecond = 1'000'000'000;

L only(L::Bucket bucket, ThrottleBucket value) {
  L limits;
  limits.buckets[bucket] = value;
  return limits;
}

// Somebody who always has another request of `size` bytes ready, and whose timer is late.
class Greedy {
 public:
  explicit Greedy(const L& limits) { state_.set_limits(limits, now_); }

  // Requests that pass until `end`.
  uint64_t run_until(int64_t end, uint64_t size, Direction direction = Direction::kRead) {
    uint64_t passed = 0;
    while (true) {
      const int64_t wait = state_.wait(direction, now_);
      if (now_ + wait >= end) break;
      if (wait > 0) {
        now_ += wait + lateness_;
        // The alarm was set for when a request may go.
        EXPECT_EQ(state_.wait(direction, now_), 0);
      }
      state_.account(direction, size);
      ++passed;
    }
    now_ = end;
    return passed;
  }
  void rest_until(int64_t time) { now_ = time; }
  void late_by(int64_t nanoseconds) { lateness_ = nanoseconds; }
  int64_t wait(Direction direction) { return state_.wait(direction, now_); }

 private:
  ThrottleState state_;
  int64_t now_ = 12345;
  int64_t lateness_ = 0;
};

// Rate, request size (the unit is 1 for operations), seconds.
class Accuracy : public testing::TestWithParam<std::tuple<int64_t, uint64_t, int, int64_t>> {};

TEST_P(Accuracy, OfBytes) {
  const auto [rate, size, seconds, lateness] = GetParam();
  Greedy greedy(only(L::kBpsTotal, {rate, 0, 1}));
  greedy.late_by(lateness);
  // What an empty bucket lets pass at once is no rate.
  greedy.run_until(12345 + kSecond, size);
  const double got = static_cast<double>(greedy.run_until(12345 + (1 + seconds) * kSecond, size)) *
                     static_cast<double>(size);
  const double asked = static_cast<double>(rate) * seconds;
  EXPECT_NEAR(got, asked, std::max(0.02 * asked, static_cast<double>(size)));
}

TEST_P(Accuracy, OfOperations) {
  const auto [rate, size, seconds, lateness] = GetParam();
  const int64_t operations = std::max<int64_t>(rate / 4096, 1);
  Greedy greedy(only(L::kIopsRead, {operations, 0, 1}));
  greedy.late_by(lateness);
  greedy.run_until(12345 + kSecond, size);
  const double got = static_cast<double>(greedy.run_until(12345 + (1 + seconds) * kSecond, size));
  const double asked = static_cast<double>(operations * seconds);
  EXPECT_NEAR(got, asked, std::max(0.02 * asked, 1.0));
}

INSTANTIATE_TEST_SUITE_P(Rates, Accuracy,
                         testing::Combine(testing::Values(1, 3000, 1 << 20, 20 << 20),
                                          testing::Values(4096, 65536), testing::Values(1, 10, 100),
                                          testing::Values(0, 3'000'000)));

TEST(ThrottleState, ReadsAndWritesShareATotal) {
  ThrottleState state;
  state.set_limits(only(L::kIopsTotal, {100, 0, 1}), 0);
  for (int i = 0; i <= 10; ++i) {
    EXPECT_EQ(state.wait(Direction::kRead, 0), 0);
    EXPECT_EQ(state.wait(Direction::kWrite, 0), 0);
    state.account(i % 2 == 0 ? Direction::kRead : Direction::kWrite, 512);
  }
  // Eleven of the ten that a tenth of a second holds: one must leak.
  EXPECT_EQ(state.wait(Direction::kRead, 0), kSecond / 100);
  EXPECT_EQ(state.wait(Direction::kWrite, kSecond / 200), kSecond / 200);
}

TEST(ThrottleState, ReadsAndWritesApart) {
  Greedy greedy(only(L::kBpsWrite, {4096, 0, 1}));
  EXPECT_EQ(greedy.run_until(12345 + kSecond / 2, 4096, Direction::kWrite), 1U);
  EXPECT_GT(greedy.wait(Direction::kWrite), 0);
  EXPECT_EQ(greedy.wait(Direction::kRead), 0);
}

TEST(ThrottleState, TheStricterLimitHolds) {
  L limits = only(L::kBpsTotal, {4096, 0, 1});
  limits.buckets[L::kIopsTotal] = {1000, 0, 1};
  EXPECT_NEAR(Greedy(limits).run_until(12345 + 100 * kSecond, 512), 800, 16);
  limits.buckets[L::kIopsTotal].average = 2;
  EXPECT_NEAR(Greedy(limits).run_until(12345 + 100 * kSecond, 512), 200, 4);
}

TEST(ThrottleState, ABurstOfASecondMayComeAtOnce) {
  Greedy greedy(only(L::kIopsTotal, {10, 50, 1}));
  EXPECT_EQ(greedy.run_until(12346, 512), 51U);
  EXPECT_NEAR(greedy.run_until(12345 + 100 * kSecond, 512), 1000, 20);
}

TEST(ThrottleState, ALongBurstIsEven) {
  Greedy greedy(only(L::kIopsTotal, {10, 70, 4}));
  // A tenth of a second of it at once, then its rate, for as long as there is room: it leaks too.
  EXPECT_EQ(greedy.run_until(12346, 512), 8U);
  uint64_t passed = 8 + greedy.run_until(12345 + kSecond, 512);
  EXPECT_NEAR(static_cast<double>(passed), 77, 1);
  passed += greedy.run_until(12345 + 4 * kSecond, 512);
  EXPECT_NEAR(static_cast<double>(passed), 287, 2);
  passed += greedy.run_until(12345 + 6 * kSecond, 512);
  EXPECT_NEAR(static_cast<double>(passed), 280 + 60, 2);
  EXPECT_NEAR(greedy.run_until(12345 + 106 * kSecond, 512), 1000, 20);
}

TEST(ThrottleState, ABurstMustBeSavedFor) {
  Greedy greedy(only(L::kIopsTotal, {10, 50, 1}));
  greedy.run_until(12346, 512);
  // Two seconds of rest are worth twenty operations.
  greedy.rest_until(12346 + 2 * kSecond);
  EXPECT_NEAR(greedy.run_until(12347 + 2 * kSecond, 512), 20, 1);
}

TEST(ThrottleState, LargeOperationsCountAsSeveral) {
  L limits = only(L::kIopsTotal, {10, 0, 1});
  limits.iops_size = 4096;
  const auto wait_after = [&](uint64_t size) {
    ThrottleState state;
    state.set_limits(limits, 0);
    state.account(Direction::kRead, size);
    return state.wait(Direction::kRead, 0);
  };
  // The bucket holds one operation.
  EXPECT_EQ(wait_after(1), 0);
  EXPECT_EQ(wait_after(4096), 0);
  EXPECT_EQ(wait_after(6144), kSecond / 20);
  EXPECT_EQ(wait_after(12288), kSecond / 5);
}

TEST(ThrottleState, NewLimitsBeginWithEmptyBuckets) {
  ThrottleState state;
  state.set_limits(only(L::kBpsRead, {10, 0, 1}), 0);
  state.account(Direction::kRead, 1000);
  EXPECT_GT(state.wait(Direction::kRead, 0), 0);
  state.set_limits(state.limits(), 0);
  EXPECT_EQ(state.wait(Direction::kRead, 0), 0);
}

TEST(ThrottleState, NoWaitIsLongerThanAYear) {
  ThrottleState state;
  state.set_limits(only(L::kBpsRead, {1, 0, 1}), 0);
  state.account(Direction::kRead, UINT64_MAX);
  EXPECT_EQ(state.wait(Direction::kRead, 0), 365 * 24 * 3600 * kSecond);
}

}  // namespace
}  // namespace blockbed
