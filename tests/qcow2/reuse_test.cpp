// Freed clusters are used again without a flush by the client, and nobody else pays for it.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <span>

#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 65536;
constexpr uint64_t kMiB = uint64_t{1} << 20;

// Half of it is noise: compressed, it takes half a cluster.
std::vector<std::byte> half_noise(sim::SimEnv& env, uint64_t length) {
  std::vector<std::byte> data(length);
  for (std::size_t i = 0; i < length; i += 16) {
    const uint64_t value = env.chance().next();
    std::memcpy(data.data() + i, &value, sizeof(value));
  }
  return data;
}

using Work = std::function<Task<void>(sim::SimEnv&, Image&)>;

Task<void> on_image(sim::SimEnv& env, const Work& work, uint64_t& flushes, uint64_t& length) {
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  EXPECT_TRUE(co_await (*opened)->image->begin_writing());
  const uint64_t before = (*opened)->storage->flushes;
  co_await work(env, *(*opened)->image);
  flushes = (*opened)->storage->flushes - before;
  length = (co_await (*opened)->storage->length()).value_or(0);
  EXPECT_TRUE(co_await (*opened)->close());
}

class Qcow2Reuse : public ::testing::Test {
 protected:
  void SetUp() override {
    CreateOptions create;
    create.size = 64 * kMiB;
    ASSERT_TRUE(env_.run(create_image(env_, "disk", create)));
  }
  void run(const Work& work) { env_.run(on_image(env_, work, flushes_, length_)); }

  sim::SimEnv env_{1};
  uint64_t flushes_ = 0;
  uint64_t length_ = 0;
};

Task<void> write(Image& image, uint64_t at, uint64_t length) {
  std::vector<std::byte> data(length, std::byte{7});
  EXPECT_TRUE(co_await image.write(at, IoVector(data.data(), length)));
}

TEST_F(Qcow2Reuse, TrimmedAndWrittenAgain) {
  run([](sim::SimEnv&, Image& image) -> Task<void> {
    for (int round = 0; round < 20; ++round) {
      co_await write(image, 0, 4 * kMiB);
      EXPECT_TRUE(co_await image.discard(0, 4 * kMiB));
    }
  });
  EXPECT_LT(length_, 5 * kMiB);
}

Task<bool> fits(Image& image, uint64_t cluster) {
  std::vector<std::byte> data(kCluster, std::byte{8});
  const auto done = co_await image.write(cluster * kCluster, IoVector(data.data(), kCluster));
  if (!done) EXPECT_EQ(done.error().number(), ENOSPC);
  co_return done.has_value();
}

// However little waits: where there is no other place, it is used.
TEST_F(Qcow2Reuse, WhenTheFileCannotGrow) {
  run([](sim::SimEnv& env, Image& image) -> Task<void> {
    env.storage().set_capacity("disk", 16 * kCluster);
    uint64_t filled = 0;
    while (filled < 32 && co_await fits(image, filled)) ++filled;
    EXPECT_GT(filled, 4u);
    EXPECT_LT(filled, 16u);
    EXPECT_TRUE(co_await image.discard(0, 3 * kCluster));
    for (uint64_t more = 100; more < 103; ++more) EXPECT_TRUE(co_await fits(image, more)) << more;
    EXPECT_FALSE(co_await fits(image, 103));
    std::vector<std::byte> noise = half_noise(env, kCluster);
    EXPECT_TRUE(co_await image.discard(3 * kCluster, kCluster));
    EXPECT_TRUE(co_await image.write_compressed(200 * kCluster, IoVector(noise.data(), kCluster)));
    EXPECT_TRUE(co_await image.write_compressed(201 * kCluster, IoVector(noise.data(), kCluster)));
    EXPECT_FALSE(co_await fits(image, 103));
    EXPECT_TRUE(co_await image.discard(200 * kCluster, 2 * kCluster));
    EXPECT_TRUE(co_await fits(image, 103));
  });
}

// Nobody flushes, and nothing new is written that could use the space.
TEST_F(Qcow2Reuse, SpaceIsGivenBackWhenEnoughWaits) {
  CreateOptions create;
  create.size = 64 * kMiB;
  env_.run([](sim::SimEnv& env, CreateOptions options) -> Task<void> {
    EXPECT_TRUE(co_await create_image(env, "trimmed", options));
    MetadataOptions how = writable_options();
    how.discard_request = true;
    auto opened = co_await open_image(env, "trimmed", how);
    EXPECT_TRUE(opened);
    if (!opened) co_return;
    Image& image = *(*opened)->image;
    EXPECT_TRUE(co_await image.begin_writing());
    co_await write(image, 0, 32 * kMiB);
    const uint64_t before = (*opened)->storage->flushes;
    for (uint64_t at = 0; at < 32 * kMiB; at += kCluster) {
      EXPECT_TRUE(co_await image.discard(at, kCluster));
    }
    EXPECT_GT((*opened)->storage->discarded, 32 * kMiB - kPendingSpace - kMiB);
    EXPECT_LT((*opened)->storage->flushes - before, 4 * 32 * kMiB / kPendingSpace);
    EXPECT_TRUE(co_await (*opened)->close());
  }(env_, create));
}

TEST_F(Qcow2Reuse, InSmallParts) {
  run([](sim::SimEnv& env, Image& image) -> Task<void> {
    for (int round = 0; round < 1000; ++round) {
      const uint64_t at = env.chance().next() % 32 * kCluster;
      co_await write(image, at, kCluster);
      EXPECT_TRUE(co_await image.discard(at, kCluster));
    }
  });
  EXPECT_LT(length_, kReuseBytes + kMiB);
  EXPECT_LT(flushes_, 4 * 1000 * kCluster / kReuseBytes);
}

// Somebody is always in the middle of something.
TEST_F(Qcow2Reuse, WhileOthersWrite) {
  run([](sim::SimEnv& env, Image& image) -> Task<void> {
    auto client = [](sim::SimEnv& e, Image& disk, uint64_t base) -> Task<void> {
      for (int round = 0; round < 200; ++round) {
        const uint64_t at = base + e.chance().next() % 16 * kCluster;
        co_await write(disk, at, kCluster);
        EXPECT_TRUE(co_await disk.discard(at, kCluster));
      }
    };
    Gate gate(env.executor());
    for (uint64_t i = 0; i < 4; ++i) gate.spawn(client(env, image, i * kMiB));
    co_await gate.close();
  });
  EXPECT_LT(length_, kReuseBytes + 2 * kMiB);
}

// A request that began after something was freed does not hold it back.
TEST_F(Qcow2Reuse, BesideRequestsThatNeverCease) {
  run([](sim::SimEnv& env, Image& image) -> Task<void> {
    bool ended = false;
    auto restless = [](Image& disk, uint64_t at, const bool& end) -> Task<void> {
      while (!end) co_await write(disk, at, kCluster);
    };
    auto client = [](Image& disk, bool& end) -> Task<void> {
      for (uint64_t round = 0; round < 200; ++round) {
        co_await write(disk, round * kCluster, kCluster);
        EXPECT_TRUE(co_await disk.discard(round * kCluster, kCluster));
      }
      end = true;
    };
    Gate gate(env.executor());
    for (uint64_t i = 0; i < 4; ++i) {
      co_await write(image, 32 * kMiB + i * kCluster, kCluster);
      gate.spawn(restless(image, 32 * kMiB + i * kCluster, ended));
    }
    gate.spawn(client(image, ended));
    co_await gate.close();
  });
  EXPECT_LT(length_, kReuseBytes + 2 * kMiB);
}

// While the file has room of its own, what waits goes on waiting.
TEST_F(Qcow2Reuse, RoomInTheFileIsUsedFirst) {
  run([](sim::SimEnv&, Image& image) -> Task<void> {
    co_await write(image, 0, 32 * kMiB);
    EXPECT_TRUE(co_await image.discard(0, 32 * kMiB));
    EXPECT_TRUE(co_await image.flush());
    for (int round = 0; round < 16; ++round) {
      co_await write(image, 0, kMiB);
      EXPECT_TRUE(co_await image.discard(0, kMiB));
    }
  });
  EXPECT_LT(flushes_, 8u);
  EXPECT_LT(length_, 33 * kMiB);
}

TEST_F(Qcow2Reuse, CompressedAndWrittenAgain) {
  run([](sim::SimEnv& env, Image& image) -> Task<void> {
    for (int round = 0; round < 40; ++round) {
      auto data = half_noise(env, kMiB);
      EXPECT_TRUE(co_await image.write_compressed(0, IoVector(data.data(), data.size())));
    }
  });
  EXPECT_LT(length_, kReuseBytes + 3 * kMiB);
}

TEST_F(Qcow2Reuse, WritingInOrderCostsNoFlush) {
  run([](sim::SimEnv&, Image& image) -> Task<void> {
    for (uint64_t at = 0; at < 64 * kMiB; at += 256 * 1024) {
      co_await write(image, at, 256 * 1024);
    }
  });
  EXPECT_EQ(flushes_, 0u);
}

// What a snapshot holds is not free when the disk has let go of it.
class Qcow2ReuseBesideSnapshot : public ToolTest {};

TEST_F(Qcow2ReuseBesideSnapshot, FewFlushesForNothing) {
  tool(
      "qemu-img create -q -f qcow2 d.qcow2 64M && qemu-io -f qcow2 -c 'write -q 0 64M' d.qcow2 && "
      "qemu-img snapshot -c s d.qcow2");
  const std::string content = slurp(path("d.qcow2"));
  sim::SimEnv env(1);
  env.storage().put("disk", std::as_bytes(std::span(content)));
  uint64_t flushes = 0;
  uint64_t length = 0;
  const Work work = [](sim::SimEnv&, Image& image) -> Task<void> {
    for (uint64_t at = 0; at < 64 * kMiB; at += kCluster) co_await write(image, at, kCluster);
  };
  env.run(on_image(env, work, flushes, length));
  // It learns: 1, 2, 4, ... MiB.
  EXPECT_LT(flushes, 40u);
}

}  // namespace
}  // namespace blockbed::qcow2::test
