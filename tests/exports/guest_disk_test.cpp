// A guest's requests: policies for errors, a machine that stands still, and the end.
#include "block/exports/guest_disk.h"

#include <gtest/gtest.h>

#include "block/runtime/gate.h"
#include "tests/exports/export_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::nbd {
namespace {

using namespace test;

class Machine final : public GuestState {
 public:
  explicit Machine(Executor& executor) : resumed_(executor) {}

  bool running() const override { return running_; }
  WaitQueue& resumed() override { return resumed_; }
  void stop_on_error() override {
    running_ = false;
    ++stops;
  }
  void stop() { running_ = false; }
  void resume() {
    running_ = true;
    resumed_.wake_all();
  }

  int stops = 0;

 private:
  bool running_ = true;
  WaitQueue resumed_;
};

// A guest whose reads behind the end of the disk fail, until there is a medium again.
struct Scene {
  explicit Scene(World& w) : world(w), machine(w.env.executor()) {}

  Task<void> begin() {
    node = co_await world.open_node("n");
    world.insert_device("d", *node);
    world.device->io_status_enabled = true;
    disk.emplace(*world.device, machine);
  }
  Task<void> remove_medium() { co_await world.device->remove(); }
  void insert_medium() { EXPECT_TRUE(world.device->insert(*node)); }
  Task<void> read(std::optional<Result<void>>& outcome) {
    std::array<std::byte, 512> bytes;
    bytes.fill(std::byte{7});
    outcome = co_await disk->read(0, IoVector(bytes.data(), bytes.size()), {});
    zeroes = bytes[0] == std::byte{0} && bytes[511] == std::byte{0};
  }

  World& world;
  Machine machine;
  Node* node = nullptr;
  std::optional<GuestDisk> disk;
  bool zeroes = false;
};

Task<void> policies(World& world) {
  Scene s(world);
  co_await s.begin();
  co_await s.remove_medium();
  Backend& device = *world.device;
  std::optional<Result<void>> outcome;
  for (const OnError policy : {OnError::kAuto, OnError::kReport, OnError::kEnospc}) {
    device.on_read_error = policy;
    co_await s.read(outcome);
    EXPECT_EQ(outcome->error().number(), ENOMEDIUM);
  }
  device.on_read_error = OnError::kIgnore;
  co_await s.read(outcome);
  EXPECT_TRUE(*outcome);
  EXPECT_TRUE(s.zeroes);
  EXPECT_EQ(s.machine.stops, 0);
  EXPECT_EQ(device.io_status, IoStatus::kOk);
  EXPECT_EQ(device.accounting().of(AccountedKind::kRead).failed, 4u);
  EXPECT_EQ(device.accounting().of(AccountedKind::kRead).operations, 0u);
}
TEST(GuestDisk, PoliciesDecideWhoHearsOfAnError) {
  World world(1);
  world.env.run(policies(world));
}

Task<void> stop_and_go_on(World& world) {
  Scene s(world);
  co_await s.begin();
  co_await s.remove_medium();
  world.device->on_read_error = OnError::kStop;
  std::optional<Result<void>> first, second;
  Gate gate(world.env.executor());
  gate.spawn(s.read(first));
  gate.spawn(s.read(second));
  while (s.machine.stops < 1) co_await world.env.executor().yield();
  EXPECT_EQ(world.device->io_status, IoStatus::kFailed);
  // The cause is still there.
  s.machine.resume();
  while (s.machine.stops < 2) co_await world.env.executor().yield();
  EXPECT_FALSE(first || second);
  s.insert_medium();
  EXPECT_FALSE(first || second);
  s.machine.resume();
  co_await gate.close();
  EXPECT_TRUE(*first && *second);
  EXPECT_EQ(world.device->accounting().of(AccountedKind::kRead).operations, 2u);
}
TEST(GuestDisk, AStoppedGuestAsksAgain) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(stop_and_go_on(world));
  });
}

Task<void> cut_off(World& world) {
  Scene s(world);
  co_await s.begin();
  s.machine.stop();
  std::optional<Result<void>> waiting, later;
  Gate gate(world.env.executor());
  gate.spawn(s.read(waiting));
  co_await world.env.executor().yield();
  EXPECT_FALSE(waiting);
  s.disk->cut_off();
  co_await gate.close();
  EXPECT_EQ(waiting->error().number(), ESHUTDOWN);
  s.machine.resume();
  co_await s.read(later);
  EXPECT_EQ(later->error().number(), ESHUTDOWN);
  EXPECT_EQ(world.device->accounting().of(AccountedKind::kRead).operations, 0u);
}
TEST(GuestDisk, WhoIsCutOffWaitsNoLonger) {
  World world(1);
  world.env.run(cut_off(world));
}

}  // namespace
}  // namespace blockbed::nbd
