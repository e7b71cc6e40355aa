#include "block/runtime/guest_clock.h"

#include <gtest/gtest.h>

#include <vector>

#include "block/sim/sim_env.h"

namespace blockbed {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

class GuestClockTest : public testing::Test {
 public:
  ~GuestClockTest() override { env.run(clock.close()); }

  sim::SimEnv env{1};
  GuestClock clock{env};
  std::vector<int64_t> rung;
};

TEST_F(GuestClockTest, FollowsTheEnv) {
  EXPECT_EQ(clock.now(), 0);
  GuestAlarm late(clock, [this] { rung.push_back(clock.now()); });
  GuestAlarm early(clock, [this] { rung.push_back(clock.now()); });
  GuestAlarm never(clock, [this] { rung.push_back(-1); });
  late.arm(3 * kSecond);
  never.arm(2 * kSecond);
  early.arm(kSecond);
  never.disarm();
  EXPECT_EQ(clock.next_alarm(7), kSecond);
  env.run(env.sleep(4 * kSecond));
  EXPECT_EQ(rung, (std::vector<int64_t>{kSecond, 3 * kSecond}));
  EXPECT_EQ(clock.next_alarm(7), 7);
}

TEST_F(GuestClockTest, AnAlarmMayBeMovedToEitherSide) {
  GuestAlarm alarm(clock, [this] { rung.push_back(clock.now()); });
  alarm.arm(5 * kSecond);
  env.run(env.sleep(kSecond));
  alarm.arm(2 * kSecond);
  env.run(env.sleep(2 * kSecond));
  alarm.arm(4 * kSecond);
  alarm.arm(6 * kSecond);
  env.run(env.sleep(4 * kSecond));
  EXPECT_EQ(rung, (std::vector<int64_t>{2 * kSecond, 6 * kSecond}));
}

TEST_F(GuestClockTest, NothingIsLeftInTheEnvWithoutAlarms) {
  const int64_t begun = env.now();
  {
    GuestAlarm alarm(clock, [] {});
    alarm.arm(1000 * kSecond);
  }
  env.run(clock.close());
  EXPECT_EQ(env.now(), begun);
}

TEST_F(GuestClockTest, HeldItStandsAndIsStepped) {
  GuestAlarm before(clock, [this] { rung.push_back(clock.now()); });
  before.arm(kSecond);
  clock.hold(0);
  // Rings, and arms itself again, at its own times.
  GuestAlarm again(clock, [this, &again] {
    rung.push_back(clock.now());
    if (rung.size() < 4) again.arm(clock.now() + kSecond / 2);
  });
  again.arm(kSecond + 1);
  env.run(env.sleep(10 * kSecond));
  EXPECT_TRUE(rung.empty());
  EXPECT_EQ(clock.now(), 0);
  clock.step_to(kSecond);
  EXPECT_EQ(rung, (std::vector<int64_t>{kSecond}));
  EXPECT_EQ(clock.now(), kSecond);
  clock.step_to(10 * kSecond);
  EXPECT_EQ(rung,
            (std::vector<int64_t>{kSecond, kSecond + 1, kSecond * 3 / 2 + 1, 2 * kSecond + 1}));
  clock.step_to(5 * kSecond);
  EXPECT_EQ(clock.now(), 10 * kSecond);
}

}  // namespace
}  // namespace blockbed
