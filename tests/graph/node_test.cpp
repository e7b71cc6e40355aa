// The data path of a node: alignment, splitting, fallbacks, overlap, drain.
#include "block/graph/node.h"

#include <gtest/gtest.h>

#include <random>

#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

using test::MemoryDisk;

constexpr PermissionPair kReadWrite{
    Permission::kConsistentRead | Permission::kWrite | Permissions(Permission::kResize),
    Permissions::all()};

class NodeTest : public testing::Test {
 public:
  NodeTest() {
    disk.bytes.resize(1 << 20);
    registry.add(test::memory_entry(disk));
    graph.emplace(env, events, registry);
  }
  ~NodeTest() override { env.run_until_complete(finish()); }

  Task<void> finish() {
    if (backend) co_await backend->remove();
    backend.reset();
    co_await graph->shutdown();
    graph.reset();
  }

  Node& open_disk(json::Object options = {}) {
    options.set("driver", "null-co");
    Graph::OpenRequest request;
    request.options = std::move(options);
    auto opened = env.run_until_complete(graph->open(std::move(request)));
    if (!opened) ADD_FAILURE() << opened.error().description;
    backend.emplace(*graph, "", kReadWrite);
    auto inserted = backend->insert(**opened);
    if (!inserted) ADD_FAILURE() << inserted.error().description;
    return **opened;
  }

  Result<void> write(uint64_t offset, unsigned char byte, std::size_t length,
                     RequestFlags flags = {}) {
    Buffer buffer(length);
    buffer.io().fill(byte);
    return env.run_until_complete(backend->write(offset, buffer.io(), flags));
  }
  Result<std::vector<std::byte>> read(uint64_t offset, std::size_t length) {
    std::vector<std::byte> bytes(length, std::byte{0xee});
    auto done = env.run_until_complete(backend->read(offset, IoVector(bytes.data(), length)));
    if (!done) return io_error(done.error());
    return bytes;
  }

  ProductionEnv env;
  test::RecordedEvents events;
  DriverRegistry registry;
  MemoryDisk disk;
  std::optional<Graph> graph;
  std::optional<Backend> backend;
};

TEST_F(NodeTest, EveryAlignmentReadsAndWritesWhatAPlainArrayDoes) {
  for (const uint32_t alignment : {1u, 512u, 4096u}) {
    for (const uint64_t max_transfer : {uint64_t{0}, uint64_t{8192}}) {
      disk.alignment = alignment;
      disk.max_transfer = max_transfer;
      disk.largest_request = 0;
      disk.zero_supported = alignment != 512;
      std::fill(disk.bytes.begin(), disk.bytes.end(), std::byte{0});
      open_disk();
      std::vector<std::byte> model(disk.bytes.size());
      std::mt19937_64 random(alignment + max_transfer);
      for (int i = 0; i < 2000; ++i) {
        const uint64_t offset = random() % model.size();
        const uint64_t length = std::min<uint64_t>(random() % 40000, model.size() - offset);
        switch (random() % 3) {
          case 0: {
            const auto byte = static_cast<unsigned char>(random());
            ASSERT_TRUE(write(offset, byte, length));
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length,
                        std::byte{byte});
            break;
          }
          case 1:
            ASSERT_TRUE(env.run_until_complete(backend->zero(offset, length)));
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{0});
            break;
          default: {
            auto bytes = read(offset, length);
            ASSERT_TRUE(bytes);
            ASSERT_TRUE(std::equal(bytes->begin(), bytes->end(),
                                   model.begin() + static_cast<std::ptrdiff_t>(offset)));
          }
        }
      }
      ASSERT_EQ(disk.bytes, model);
      if (max_transfer != 0) EXPECT_LE(disk.largest_request, max_transfer);
      env.run_until_complete(backend->remove());
      backend.reset();
      env.run_until_complete(graph->close_unreferenced());
      EXPECT_TRUE(graph->nodes().empty());
    }
  }
}

TEST_F(NodeTest, RequestsOutsideTheImageFail) {
  open_disk();
  EXPECT_EQ(read(disk.bytes.size() - 1, 2).error().number(), EIO);
  EXPECT_EQ(write(disk.bytes.size(), 1, 1).error().number(), EIO);
  EXPECT_EQ(write(~uint64_t{0}, 1, 1).error().number(), EIO);
  EXPECT_TRUE(read(disk.bytes.size(), 0));
  EXPECT_EQ(disk.reads + disk.writes, 0u);
}

TEST_F(NodeTest, ReadOnlyNodesRefuseWriters) {
  json::Object options;
  options.set("driver", "null-co");
  options.set("read-only", true);
  options.set("node-name", "disk");
  Graph::OpenRequest request;
  request.options = options;
  auto opened = env.run_until_complete(graph->open(std::move(request)));
  ASSERT_TRUE(opened);
  Backend writer(*graph, "", kReadWrite);
  auto inserted = writer.insert(**opened);
  ASSERT_FALSE(inserted);
  EXPECT_EQ(inserted.error().description, "Block node is read-only");
}

TEST_F(NodeTest, DetectedZeroesAreZeroed) {
  json::Object options;
  options.set("detect-zeroes", "on");
  open_disk(options);
  ASSERT_TRUE(write(0, 0, 65536));
  EXPECT_EQ(disk.zeroes, 1u);
  EXPECT_EQ(disk.writes, 0u);
  ASSERT_TRUE(write(0, 1, 65536));
  EXPECT_EQ(disk.writes, 1u);
}

TEST_F(NodeTest, WhoStandsOnTopDecidesWhetherZeroesUnmap) {
  for (const bool unmap : {false, true}) {
    const RequestFlags flags = RequestFlags().with_may_unmap(unmap);
    if (!backend) open_disk({{"discard", "ignore"}});
    ASSERT_TRUE(env.run_until_complete(backend->zero(0, 65536, flags)));
    EXPECT_EQ(disk.unmapping_zeroes, unmap ? 1u : 0u);
  }
}

TEST_F(NodeTest, ForcedUnitAccessFlushesWhereTheDriverCannot) {
  open_disk();
  ASSERT_TRUE(write(0, 1, 512, RequestFlags().with_fua()));
  EXPECT_EQ(disk.flushes, 1u);
  // Nothing was written since: a flush has nothing to do.
  ASSERT_TRUE(env.run_until_complete(backend->flush()));
  EXPECT_EQ(disk.flushes, 1u);
  ASSERT_TRUE(write(0, 1, 512));
  ASSERT_TRUE(env.run_until_complete(backend->flush()));
  EXPECT_EQ(disk.flushes, 2u);
}

TEST_F(NodeTest, UnalignedWritesToOneBlockDoNotLoseEachOther) {
  disk.alignment = 4096;
  open_disk();
  Event hold(env.executor());
  disk.hold = &hold;
  Gate gate(env.executor());
  const auto write_one = [](NodeTest& t, std::size_t i) -> Task<void> {
    std::byte value{static_cast<unsigned char>(i + 1)};
    auto done = co_await t.backend->write(i, IoVector(&value, 1));
    EXPECT_TRUE(done);
  };
  for (std::size_t i = 0; i < 64; ++i) gate.spawn(write_one(*this, i));
  hold.set();
  env.run_until_complete(gate.wait_idle());
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_EQ(disk.bytes[i], std::byte{static_cast<unsigned char>(i + 1)}) << i;
}

// A copy that must not overtake a reader of its target.
TEST_F(NodeTest, ASerialisingRequestWaitsForWhatItOverlaps) {
  open_disk();
  for (const bool compressed : {false, true}) {
    Event hold(env.executor());
    disk.hold = &hold;
    disk.reads = disk.writes = 0;
    Gate gate(env.executor());
    const auto read_one = [](NodeTest& test) -> Task<void> {
      Buffer buffer(4096);
      EXPECT_TRUE((co_await test.backend->read(0, buffer.io())).has_value());
    };
    const auto write_one = [](NodeTest& test, uint64_t offset, RequestFlags flags) -> Task<void> {
      Buffer buffer(4096);
      EXPECT_TRUE((co_await test.backend->write(offset, buffer.io(), flags)).has_value());
    };
    const auto look = [](NodeTest& test, Event& held) -> Task<void> {
      for (int i = 0; i < 10; ++i) co_await test.env.executor().yield();
      EXPECT_EQ(test.disk.reads, 1u);
      EXPECT_EQ(test.disk.writes, 1u);  // the one beside it
      held.set();
    };
    const RequestFlags flags = RequestFlags().with_serialising().with_compressed(compressed);
    gate.spawn(read_one(*this));
    gate.spawn(write_one(*this, 0, flags));
    gate.spawn(write_one(*this, 65536, flags));
    gate.spawn(look(*this, hold));
    env.run_until_complete(gate.close());
    EXPECT_EQ(disk.writes, 2u);
  }
  EXPECT_EQ(disk.compressed_writes, 2u);
}

TEST_F(NodeTest, DrainWaitsForWhatIsInFlightAndHoldsBackTheRest) {
  Node& node = open_disk();
  Event hold(env.executor());
  disk.hold = &hold;
  Gate gate(env.executor());
  int finished = 0;
  const auto write_one = [](NodeTest& t, int& count) -> Task<void> {
    std::byte value{1};
    EXPECT_TRUE(co_await t.backend->write(0, IoVector(&value, 1)));
    ++count;
  };
  gate.spawn(write_one(*this, finished));
  EXPECT_EQ(node.in_flight(), 1u);

  bool drained = false;
  const auto drain_and_look = [](NodeTest& t, Node& n, Event& h, int& count, bool& seen, Gate& g,
                                 auto writer) -> Task<void> {
    auto section = co_await drain(n);
    seen = true;
    EXPECT_EQ(count, 1);
    EXPECT_EQ(n.in_flight(), 0u);
    g.spawn(writer(t, count));
    co_await t.env.executor().yield();
    EXPECT_EQ(count, 1) << "a request was admitted into a drained node";
    EXPECT_EQ(n.in_flight(), 0u);
    section.end();
    (void)h;
  };
  gate.spawn(drain_and_look(*this, node, hold, finished, drained, gate, write_one));
  EXPECT_FALSE(drained);
  hold.set();
  env.run_until_complete(gate.wait_idle());
  EXPECT_TRUE(drained);
  EXPECT_EQ(finished, 2);
}

TEST_F(NodeTest, FailuresReachTheCallerAndLeaveTheNodeUsable) {
  open_disk();
  disk.next_write_error = ENOSPC;
  EXPECT_EQ(write(0, 1, 512).error().number(), ENOSPC);
  disk.next_read_error = EIO;
  EXPECT_EQ(read(0, 512).error().number(), EIO);
  EXPECT_TRUE(write(0, 1, 512));
  EXPECT_TRUE(read(0, 512));
}

}  // namespace
}  // namespace blockbed
