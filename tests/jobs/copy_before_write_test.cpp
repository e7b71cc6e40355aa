// The copy-before-write filter on its own, as blockdev-add makes it.
#include "block/filters/copy_before_write.h"

#include <gmock/gmock.h>

#include "tests/jobs/jobs_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;

constexpr uint64_t kSize = 640 * kKiB;
constexpr uint64_t kCluster = 64 * kKiB;

class CopyBeforeWriteTest : public testing::Test {
 public:
  CopyBeforeWriteTest() : world(1) {
    sim::SparseBytes content;
    content.resize(kSize);
    const std::vector<std::byte> ones(kSize, std::byte{1});
    content.write(0, ones);
    world.file("s", std::move(content));
    world.file("t", sim::SparseBytes(kSize));
  }
  ~CopyBeforeWriteTest() override {
    if (guest) world.run(guest->remove());
    guest.reset();
  }

  CopyBeforeWrite& make(json::Object options = {}) {
    options.set("driver", "copy-before-write");
    options.set("node-name", "c");
    if (options.find("file") == nullptr) options.set("file", "s");
    options.set("target", "t");
    Node& node = world.open(std::move(options));
    guest = world.guest(node);
    return CopyBeforeWrite::of(node);
  }
  std::string refused(json::Object options) {
    options.set("driver", "copy-before-write");
    Graph::OpenRequest request;
    request.options = std::move(options);
    auto opened = world.run(world.graph->open(std::move(request)));
    EXPECT_FALSE(opened.has_value());
    return opened ? "" : opened.error().description;
  }

  Task<Result<void>> write(uint64_t offset, uint64_t length) {
    Buffer buffer(length);
    buffer.io().fill(2);
    co_return co_await guest->write(offset, buffer.io());
  }
  unsigned char target_at(uint64_t offset) {
    std::byte byte{};
    world.env.storage().content("t").read(offset, std::span(&byte, 1));
    return static_cast<unsigned char>(byte);
  }
  sim::SimStorage::RuleId fault(sim::FaultRule rule) {
    rule.path = "t";
    rule.requests = sim::kSimWrite;
    return world.env.storage().add_fault(rule);
  }

  test::World world;
  std::unique_ptr<Backend> guest;
};

TEST_F(CopyBeforeWriteTest, SavesWholeClustersOnce) {
  CopyBeforeWrite& filter = make();
  EXPECT_TRUE(world.run(write(kCluster - 10, 20)).has_value());
  EXPECT_EQ(target_at(0), 1);
  EXPECT_EQ(target_at(2 * kCluster - 1), 1);
  EXPECT_EQ(target_at(2 * kCluster), 0);
  EXPECT_EQ(filter.engine().remaining(), kSize - 2 * kCluster);
  const uint64_t writes = world.env.storage().requests(sim::kSimWrite);
  EXPECT_TRUE(world.run(write(100, 20)).has_value());
  EXPECT_EQ(world.env.storage().requests(sim::kSimWrite), writes + 1);  // the guest's own
}

TEST_F(CopyBeforeWriteTest, AWriteWaitsForItsOwnClustersOnly) {
  make();
  sim::FaultRule rule;
  rule.error = 0;
  rule.hold = true;
  rule.length = kCluster;
  const auto held = fault(rule);
  Gate gate(world.env.executor());
  bool slow_ended = false;
  const auto slow = [](CopyBeforeWriteTest& test, bool& ended) -> Task<void> {
    EXPECT_TRUE((co_await test.write(0, 512)).has_value());
    ended = true;
  };
  gate.spawn(slow(*this, slow_ended));
  world.run(world.env.storage().wait_for_hits(held, 1));
  EXPECT_TRUE(world.run(write(3 * kCluster, 512)).has_value());
  // Another write to the held cluster waits with the first; a read does not.
  std::byte byte{};
  EXPECT_TRUE(world.run(guest->read(0, IoVector(&byte, 1))).has_value());
  EXPECT_EQ(byte, std::byte{1});
  EXPECT_FALSE(slow_ended);
  world.env.storage().release(held);
  world.run(gate.close());
  EXPECT_TRUE(slow_ended);
  EXPECT_EQ(target_at(0), 1);
}

TEST_F(CopyBeforeWriteTest, BreakGuestWriteFailsTheGuest) {
  CopyBeforeWrite& filter = make();
  fault({});
  EXPECT_EQ(world.run(write(0, 512)).error(), Errno(EIO));
  EXPECT_FALSE(filter.snapshot_error().has_value());
  EXPECT_TRUE(world.run(write(0, 512)).has_value());
  EXPECT_EQ(target_at(0), 1);
}

TEST_F(CopyBeforeWriteTest, BreakSnapshotLetsTheGuestGoOnAndStopsCopying) {
  CopyBeforeWrite& filter = make({{"on-cbw-error", "break-snapshot"}});
  sim::FaultRule rule;
  rule.error = ENOSPC;
  fault(rule);
  EXPECT_TRUE(world.run(write(0, 512)).has_value());
  EXPECT_EQ(filter.snapshot_error(), Errno(ENOSPC));
  EXPECT_TRUE(world.run(write(3 * kCluster, 512)).has_value());
  EXPECT_EQ(target_at(3 * kCluster), 0);
}

TEST_F(CopyBeforeWriteTest, ACopyThatTakesTooLongIsAnError) {
  make({{"cbw-timeout", 3}});
  sim::FaultRule rule;
  rule.error = 0;
  rule.hold = true;
  const auto held = fault(rule);
  const int64_t before = world.env.now();
  EXPECT_EQ(world.run(write(0, 512)).error(), Errno(ETIMEDOUT));
  EXPECT_GE(world.env.now() - before, 3'000'000'000);
  EXPECT_LT(world.env.now() - before, 3'100'000'000);
  // The copy goes on by itself, and a later write finds it done.
  world.env.storage().release(held);
  EXPECT_TRUE(world.run(write(0, 512)).has_value());
  EXPECT_EQ(target_at(0), 1);
}

TEST_F(CopyBeforeWriteTest, ZeroesThatTheDiskTakesInPartsWaitForOneCopy) {
  world.open({{"driver", "blkdebug"},
              {"node-name", "in-parts"},
              {"image", "s"},
              {"opt-write-zero", kCluster}});
  make({{"file", "in-parts"}, {"cbw-timeout", 3}});
  sim::FaultRule slow;
  slow.error = 0;
  slow.delay = 2'000'000'000;
  slow.times = 10;
  fault(slow);
  const int64_t before = world.env.now();
  EXPECT_TRUE(world.run(guest->zero(kCluster / 2, 2 * kCluster)).has_value());
  EXPECT_LT(world.env.now() - before, 3'100'000'000);
}

TEST_F(CopyBeforeWriteTest, OptionsAreRefusedInQemusWords) {
  EXPECT_EQ(
      refused(
          {{"file", "s"}, {"target", "t"}, {"bitmap", json::Object{{"node", "s"}, {"name", "b"}}}}),
      "Dirty bitmap 'b' not found");
  EXPECT_EQ(
      refused(
          {{"file", "s"}, {"target", "t"}, {"bitmap", json::Object{{"node", "z"}, {"name", "b"}}}}),
      "Node 'z' not found");
  EXPECT_EQ(world.graph->nodes().size(), 2u);
}

TEST_F(CopyBeforeWriteTest, OneClusterMoreThanCanBeRememberedIsRefused) {
  const auto disk = [](uint64_t size) {
    return json::Object{{"driver", "null-co"}, {"size", size}};
  };
  const uint64_t more = (Bitmap::kMaxBits + 1) * kCluster;
  EXPECT_THAT(refused({{"file", disk(more)}, {"target", disk(more)}}),
              testing::HasSubstr("is too large for copy-before-write"));
}

TEST_F(CopyBeforeWriteTest, NobodyElseWritesToTheDiskWhileItIsUsed) {
  make();
  Backend other(*world.graph, "", test::kGuest);
  const Expected<void> inserted = other.insert(*world.graph->find_node("s"));
  ASSERT_FALSE(inserted.has_value());
  EXPECT_EQ(inserted.error().description,
            "Permission conflict on node 's': permissions 'write' are both required by an unnamed "
            "block device (uses node 's' as 'root' child) and unshared by node 'c' (uses node 's' "
            "as 'file' child).");
}

}  // namespace
}  // namespace blockbed
