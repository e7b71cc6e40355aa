// An instant read through snapshot-access while the disk goes on.
#include "block/filters/snapshot_access.h"

#include <gtest/gtest.h>

#include "block/filters/copy_before_write.h"
#include "block/graph/dirty_bitmap_list.h"
#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::FilterWorld;
using test::kKiB;

constexpr uint64_t kCluster = 64 * kKiB;
constexpr uint64_t kSize = 8 * kCluster + 512;

class SnapshotAccessTest : public testing::Test {
 public:
  SnapshotAccessTest() : world(1) {
    world.file("s", FilterWorld::filled(kSize, 1));
    world.env.storage().put("t", sim::SparseBytes(kSize));
    json::Object target = FilterWorld::options("file", "t");
    target.set("filename", "t");
    target.set("discard", "unmap");
    world.open(std::move(target));
  }

  CopyBeforeWrite& make(json::Object options = {}) {
    options.set("driver", "copy-before-write");
    options.set("node-name", "c");
    options.set("file", "s");
    options.set("target", "t");
    Node& filter = world.open(std::move(options));
    guest = &world.guest(filter);
    json::Object access = FilterWorld::options("snapshot-access", "a");
    access.set("file", "c");
    access.set("discard", "unmap");
    reader = &world.guest(world.open(std::move(access)));
    return CopyBeforeWrite::of(filter);
  }

  // The byte that all of the range reads as; an errno as a negative number; 1000 when it is mixed.
  int shown(uint64_t offset, uint64_t length) {
    auto bytes = world.read(*reader, offset, length);
    if (!bytes) return -bytes.error().number();
    for (const std::byte byte : *bytes) {
      if (byte != bytes->front()) return 1000;
    }
    return static_cast<int>(bytes->front());
  }
  Result<BlockStatus> status(uint64_t offset, uint64_t length) {
    return world.env.run(reader->node()->block_status(offset, length));
  }
  void wait(int64_t nanoseconds) {
    world.env.run([](sim::SimEnv& env, int64_t time) -> Task<void> { co_await env.delay(time); }(
                                                         world.env, nanoseconds));
  }
  sim::SimStorage::RuleId hold(const std::string& path, unsigned requests) {
    sim::FaultRule rule;
    rule.path = path;
    rule.requests = requests;
    rule.error = 0;
    rule.hold = true;
    return world.env.storage().add_fault(rule);
  }

  FilterWorld world;
  Backend* guest = nullptr;
  Backend* reader = nullptr;
};

TEST_F(SnapshotAccessTest, ShowsTheInstantWhereverItIs) {
  make();
  EXPECT_EQ(shown(0, kSize), 1);
  EXPECT_TRUE(world.write(*guest, kCluster + 100, 3 * kCluster, 2));
  EXPECT_TRUE(world.write(*guest, kSize - 10, 10, 2));
  EXPECT_EQ(shown(0, kSize), 1);
  EXPECT_TRUE(world.write(*guest, 0, kSize, 3));
  EXPECT_EQ(shown(0, kSize), 1);
  EXPECT_EQ(world.content("s"), std::vector<std::byte>(kSize, std::byte{3}));
}

TEST_F(SnapshotAccessTest, NothingIsWritten) {
  make();
  EXPECT_EQ(world.write(*reader, 0, 512, 2).error().number(), ENOTSUP);
  EXPECT_EQ(world.env.run(reader->zero(0, kCluster)).error().number(), ENOTSUP);
  EXPECT_TRUE(world.env.run(reader->flush()).has_value());
  EXPECT_EQ(shown(0, kSize), 1);
}

TEST_F(SnapshotAccessTest, WithoutAnInstantBelowNothingIsRead) {
  json::Object access = FilterWorld::options("snapshot-access", "a");
  access.set("file", "s");
  reader = &world.guest(world.open(std::move(access)));
  EXPECT_EQ(shown(0, 512), -ENOTSUP);
  EXPECT_EQ(status(0, kSize).error().number(), ENOTSUP);
  EXPECT_EQ(reader->length(), kSize);
}

TEST_F(SnapshotAccessTest, AWriteWaitsForAReadOfTheSameBytes) {
  make();
  const auto held = hold("s", sim::kSimRead);
  Gate gate(world.env.executor());
  int seen = 0;
  bool written = false;
  gate.spawn([](SnapshotAccessTest& test, int& byte) -> Task<void> {
    std::byte got{};
    EXPECT_TRUE((co_await test.reader->read(kCluster, IoVector(&got, 1))).has_value());
    byte = static_cast<int>(got);
  }(*this, seen));
  world.env.run(world.env.storage().wait_for_hits(held, 1));
  // The cluster is saved at once; the write itself must not overtake the read.
  gate.spawn([](SnapshotAccessTest& test, bool& ended) -> Task<void> {
    Buffer buffer(512);
    buffer.io().fill(2);
    EXPECT_TRUE((co_await test.guest->write(kCluster, buffer.io())).has_value());
    ended = true;
  }(*this, written));
  EXPECT_TRUE(world.write(*guest, 3 * kCluster, 512, 2));
  wait(1'000'000'000);
  EXPECT_FALSE(written);
  EXPECT_EQ(world.content("s")[kCluster], std::byte{1});
  EXPECT_EQ(world.content("t")[kCluster], std::byte{1});
  world.env.storage().release(held);
  world.env.run(gate.close());
  EXPECT_TRUE(written);
  EXPECT_EQ(seen, 1);
}

TEST_F(SnapshotAccessTest, AReadBehindAWriteUnderWayGoesToTheTarget) {
  make();
  const auto held = hold("s", sim::kSimWrite);
  Gate gate(world.env.executor());
  gate.spawn([](SnapshotAccessTest& test) -> Task<void> {
    Buffer buffer(512);
    buffer.io().fill(2);
    EXPECT_TRUE((co_await test.guest->write(0, buffer.io())).has_value());
  }(*this));
  world.env.run(world.env.storage().wait_for_hits(held, 1));
  EXPECT_EQ(shown(0, kSize), 1);
  world.env.storage().release(held);
  world.env.run(gate.close());
  EXPECT_EQ(shown(0, kSize), 1);
}

TEST_F(SnapshotAccessTest, ABitmapLimitsWhatIsReadAndWhatIsKept) {
  auto bitmap = world.graph->find_node("s")->dirty_bitmaps().create("b", 32 * kKiB, kSize);
  ASSERT_TRUE(bitmap.has_value());
  (*bitmap)->set(2 * kCluster, kCluster);
  (*bitmap)->set(3 * kCluster + 32 * kKiB, 1);
  make({{"bitmap", json::Object{{"node", "s"}, {"name", "b"}}}});
  EXPECT_TRUE(world.write(*guest, 0, kSize, 2));
  EXPECT_EQ(shown(2 * kCluster, 2 * kCluster), 1);
  EXPECT_EQ(shown(2 * kCluster - 1, 1), -EACCES);
  EXPECT_EQ(shown(4 * kCluster, 1), -EACCES);
  EXPECT_EQ(shown(3 * kCluster, kCluster + 1), -EACCES);
  EXPECT_EQ(status(0, kSize).error().number(), EACCES);
  EXPECT_TRUE(status(2 * kCluster, 2 * kCluster).has_value());
  EXPECT_EQ(world.content("t")[0], std::byte{0});
}

TEST_F(SnapshotAccessTest, ADiscardFreesWholeClustersAndEndsTheirCopying) {
  CopyBeforeWrite& filter = make();
  EXPECT_TRUE(world.write(*guest, 0, 2 * kCluster, 2));
  EXPECT_TRUE(world.env.run(reader->discard(kCluster - 100, 3 * kCluster)).has_value());
  EXPECT_EQ(shown(0, kCluster), 1);
  EXPECT_EQ(shown(kCluster, 1), -EACCES);
  EXPECT_EQ(shown(2 * kCluster, 1), -EACCES);
  EXPECT_EQ(shown(3 * kCluster, kSize - 3 * kCluster), 1);
  EXPECT_EQ(world.content("t")[kCluster], std::byte{0});
  EXPECT_EQ(filter.engine().remaining(), 6 * kCluster);
  EXPECT_TRUE(world.write(*guest, 2 * kCluster, kCluster, 3));
  EXPECT_EQ(world.content("t")[2 * kCluster], std::byte{0});
  // The last cluster is one although the disk ends in it.
  EXPECT_TRUE(world.env.run(reader->discard(8 * kCluster, 512)).has_value());
  EXPECT_EQ(shown(8 * kCluster, 512), -EACCES);
}

TEST_F(SnapshotAccessTest, ADiscardWaitsForTheCopyOfItsCluster) {
  make();
  const auto held = hold("t", sim::kSimWrite);
  Gate gate(world.env.executor());
  gate.spawn([](SnapshotAccessTest& test) -> Task<void> {
    Buffer buffer(512);
    buffer.io().fill(2);
    EXPECT_TRUE((co_await test.guest->write(0, buffer.io())).has_value());
  }(*this));
  world.env.run(world.env.storage().wait_for_hits(held, 1));
  bool discarded = false;
  gate.spawn([](SnapshotAccessTest& test, bool& ended) -> Task<void> {
    EXPECT_TRUE((co_await test.reader->discard(0, kCluster)).has_value());
    ended = true;
  }(*this, discarded));
  wait(1'000'000'000);
  EXPECT_FALSE(discarded);
  world.env.storage().release(held);
  world.env.run(gate.close());
  EXPECT_EQ(world.content("t")[0], std::byte{0});
  EXPECT_EQ(shown(0, 1), -EACCES);
}

TEST_F(SnapshotAccessTest, ABrokenSnapshotIsNotReadAndGivesItsSpaceUp) {
  make({{"on-cbw-error", "break-snapshot"}});
  EXPECT_TRUE(world.write(*guest, 0, 512, 2));
  EXPECT_NE(world.content("t")[0], std::byte{0});
  sim::FaultRule rule;
  rule.path = "t";
  rule.requests = sim::kSimWrite;
  rule.error = ENOSPC;
  world.env.storage().add_fault(rule);
  EXPECT_TRUE(world.write(*guest, kCluster, 512, 2));
  EXPECT_EQ(shown(5 * kCluster, 512), -EACCES);
  EXPECT_EQ(status(5 * kCluster, 512).error().number(), EACCES);
  EXPECT_TRUE(world.env.run(reader->discard(0, kCluster)).has_value());
  EXPECT_EQ(world.content("t")[0], std::byte{0});
}

TEST_F(SnapshotAccessTest, AReadThatBeganBeforeTheBreakStaysRight) {
  make({{"on-cbw-error", "break-snapshot"}});
  const auto held = hold("s", sim::kSimRead);
  Gate gate(world.env.executor());
  gate.spawn([](SnapshotAccessTest& test) -> Task<void> {
    std::vector<std::byte> bytes(kCluster);
    auto done = co_await test.reader->read(0, IoVector(bytes.data(), bytes.size()));
    EXPECT_TRUE(done.has_value());
    EXPECT_EQ(bytes, std::vector<std::byte>(kCluster, std::byte{1}));
  }(*this));
  world.env.run(world.env.storage().wait_for_hits(held, 1));
  sim::FaultRule rule;
  rule.path = "t";
  rule.requests = sim::kSimWrite;
  world.env.storage().add_fault(rule);
  gate.spawn([](SnapshotAccessTest& test) -> Task<void> {
    for (const uint64_t offset : {3 * kCluster, uint64_t{0}}) {
      Buffer buffer(kCluster);
      buffer.io().fill(2);
      EXPECT_TRUE((co_await test.guest->write(offset, buffer.io())).has_value());
    }
  }(*this));
  wait(1'000'000'000);
  world.env.storage().release(held);
  world.env.run(gate.close());
  EXPECT_EQ(shown(0, 512), -EACCES);
  EXPECT_EQ(world.content("s")[0], std::byte{2});
}

TEST_F(SnapshotAccessTest, StatusIsOfTheInstantAsAWhole) {
  make();
  EXPECT_TRUE(world.write(*guest, 0, kCluster, 2));
  auto all = status(0, kSize);
  ASSERT_TRUE(all.has_value());
  EXPECT_EQ(all->length, kCluster);
  EXPECT_TRUE(all->data && all->allocated);
  auto rest = status(kCluster, kSize - kCluster);
  ASSERT_TRUE(rest.has_value());
  EXPECT_EQ(rest->length, kSize - kCluster);
  EXPECT_TRUE(rest->data && rest->allocated && rest->eof);
}

TEST_F(SnapshotAccessTest, NobodyIsRefusedForIt) {
  make();
  EXPECT_EQ(world.graph->find_node("a")->children()[0]->permissions(), PermissionPair());
}

}  // namespace
}  // namespace blockbed
