// Refcount tables that name the same few blocks again and again, in a file that is long and nearly
// empty: the totals are right, and little is read and told on the way.
#include <gtest/gtest.h>

#include <map>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/repair.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/qcow2/put_tables.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint32_t kClusterBits = 21;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
// The longest table that there can be.
constexpr uint64_t kNames = kMaxRefcountTableBytes / 8;
constexpr uint32_t kOrder = 5;
constexpr uint32_t kBlockBits = kClusterBits + 3 - kOrder;
// All blocks that the table names count clusters of the file.
constexpr uint64_t kLength = kNames << (kBlockBits + kClusterBits);

// Clusters of the file.
enum Place : uint64_t {
  kL1 = 1,
  kL2,
  kTable,
  kBlocks = kTable + kMaxRefcountTableBytes / kCluster
};

class CheckRepeatedBlocks : public ::testing::Test {
 public:
  CheckRepeatedBlocks() {
    header_.cluster_bits = kClusterBits;
    header_.size = kCluster;
    header_.l1_size = 1;
    header_.l1_offset = kL1 * kCluster;
    header_.refcount_table_offset = kTable * kCluster;
    header_.refcount_table_clusters = kBlocks - kTable;
    header_.refcount_order = kOrder;
    file_.bytes.resize(kLength);
    refer(0);
    refer(kL1);
    refer(kL2);
    for (uint64_t cluster = kTable; cluster < kBlocks; ++cluster) refer(cluster);
    put(kL1, 0, kL2 * kCluster | kEntryCopied);
  }

  void put(uint64_t cluster, uint64_t at, uint64_t value) {
    put_entries(file_.bytes, cluster * kCluster + at, {value});
  }
  void refer(uint64_t cluster, uint64_t times = 1) { references_[cluster] += times; }

  // `blocks` of them by turns.
  void name_blocks(uint64_t blocks) {
    stored_.resize(blocks);
    for (uint64_t block = 0; block < blocks; ++block) {
      stored_[block] = {{1, 1}, {2, 1}, {77, 1}, {4000 + block, 3}, {(1 << kBlockBits) - 1, 1}};
      std::vector<std::byte> bytes(kCluster);
      for (const auto& [place, count] : stored_[block]) {
        set_refcount(bytes.data(), place, kOrder, count);
      }
      file_.bytes.write((kBlocks + block) * kCluster, bytes);
      refer(kBlocks + block, kNames / blocks);
    }
    std::vector<std::byte> table(kMaxRefcountTableBytes);
    for (uint64_t i = 0; i < kNames; ++i) {
      store_be64(table.data() + i * 8, (kBlocks + i % blocks) * kCluster);
    }
    file_.bytes.write(kTable * kCluster, table);
  }
  // Data in what so many names count: one cluster counted as it should be, one not at all.
  void use_far_clusters(uint64_t names) {
    for (uint64_t n = 0; n < names; ++n) {
      const uint64_t first = (n + 1) * 60 << kBlockBits;
      put(kL2, n * 16, (first + 77) * kCluster | kEntryCopied);
      put(kL2, n * 16 + 8, (first + 78) * kCluster);
      refer(first + 77);
      refer(first + 78);
    }
  }
  // Nothing to repair: a check.
  void run(Repair repair, uint64_t may_read) {
    told_.clear();
    report_ = {};
    file_.may_read = may_read;
    const auto told = [this](const CheckFinding& finding) { ++told_[finding.fault]; };
    if (repair == Repair::kNone) {
      done_ = env_.run(check_image(file_, header_, report_, told));
    } else {
      done_ = env_.run(repair_image(file_, header_, RepairOptions(repair), report_, told));
    }
  }

  struct Totals {
    uint64_t leaks = 0;
    uint64_t corruptions = 0;
  };
  // Everything that a name counts leaks, but where something is referred to as often.
  Totals expected() const {
    Totals totals;
    for (const auto& block : stored_) totals.leaks += block.size() * (kNames / stored_.size());
    for (const auto& [cluster, times] : references_) {
      const auto& block = stored_[(cluster >> kBlockBits) % stored_.size()];
      const auto found = block.find(cluster & ((1 << kBlockBits) - 1));
      const uint64_t counted = found != block.end() ? found->second : 0;
      if (counted > 0 && counted <= times) --totals.leaks;
      if (counted < times) ++totals.corruptions;
    }
    // A block is a fault where it is named again.
    totals.corruptions += kNames - stored_.size();
    return totals;
  }
  void expect_totals() {
    const Totals totals = expected();
    EXPECT_EQ(report_.leaks, totals.leaks);
    EXPECT_EQ(report_.corruptions, totals.corruptions);
    EXPECT_EQ(report_.check_errors, 0u);
    EXPECT_EQ(report_.image_end_offset, kLength);
  }

  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  Header header_;
  CheckReport report_;
  Result<void> done_;
  std::map<FaultClass, uint64_t> told_;
  // Of each block by place, and of the file's clusters.
  std::vector<std::map<uint64_t, uint64_t>> stored_;
  std::map<uint64_t, uint64_t> references_;
};

TEST_F(CheckRepeatedBlocks, OneBlock) {
  name_blocks(1);
  use_far_clusters(1000);
  put_header(file_.bytes, header_);
  run(Repair::kNone, 64 << 20);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  expect_totals();
  EXPECT_EQ(told_[FaultClass::kRefcountBlock], kNames - 1);
  EXPECT_LT(told_[FaultClass::kLeak], 100u);
}

TEST_F(CheckRepeatedBlocks, SeveralBlocksByTurns) {
  name_blocks(16);
  use_far_clusters(1000);
  put_header(file_.bytes, header_);
  run(Repair::kNone, 96 << 20);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  expect_totals();
  EXPECT_LT(told_[FaultClass::kLeak], 200u);
}

TEST_F(CheckRepeatedBlocks, RepairMakesNewOnes) {
  name_blocks(4);
  use_far_clusters(16);
  put_header(file_.bytes, header_);
  const Totals before = expected();
  const sim::SparseBytes bytes = file_.bytes;
  run(Repair::kLeaks, 64 << 20);
  EXPECT_EQ(done_, io_error(EIO));
  EXPECT_EQ(report_.leaks, before.leaks);
  EXPECT_EQ(file_.bytes, bytes);
  run(Repair::kAll, 128 << 20);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_TRUE(report_.clean()) << report_.describe();
  EXPECT_EQ(report_.leaks_fixed, before.leaks);
  // The flags of those that were not counted.
  EXPECT_EQ(report_.corruptions_fixed, before.corruptions + 16);
  EXPECT_LT(file_.bytes.allocated(), 128u << 20);
  run(Repair::kNone, 256 << 20);
  ASSERT_TRUE(done_);
  EXPECT_TRUE(report_.clean()) << report_.describe();
}

// Where a count has one bit, the first reference is as many as it can say.
TEST_F(CheckRepeatedBlocks, CountsOfOneBit) {
  constexpr uint64_t kInBlock = kCluster * 8;
  header_.refcount_order = 0;
  file_.bytes.resize(2 * kInBlock * kCluster);
  std::vector<std::byte> counts(kCluster);
  for (uint64_t cluster = 0; cluster <= kBlocks; ++cluster) {
    set_refcount(counts.data(), cluster, 0, 1);
  }
  file_.bytes.write(kBlocks * kCluster, counts);
  put(kTable, 0, kBlocks * kCluster);
  put(kTable, 8, kBlocks * kCluster);
  put_header(file_.bytes, header_);
  run(Repair::kNone, 64 << 20);
  ASSERT_TRUE(done_);
  EXPECT_EQ(report_.leaks, kBlocks + 1);
  EXPECT_EQ(told_[FaultClass::kCountOverflow], 1u);
  run(Repair::kLeaks, 64 << 20);
  EXPECT_EQ(done_, io_error(EIO));
  run(Repair::kAll, 64 << 20);
  ASSERT_TRUE(done_);
  run(Repair::kNone, 64 << 20);
  EXPECT_TRUE(report_.clean()) << report_.describe();
}

TEST_F(CheckRepeatedBlocks, CountsThatCannotBeRead) {
  constexpr uint64_t kInBlock = kCluster * 8;
  header_.refcount_order = 0;
  const uint64_t clusters = uint64_t{1} << (62 - kClusterBits);
  file_.bytes.resize(clusters * kCluster);
  std::vector<std::byte> table(kMaxRefcountTableBytes);
  for (uint64_t i = 0; i < kNames; ++i) store_be64(table.data() + i * 8, kBlocks * kCluster + 512);
  file_.bytes.write(kTable * kCluster, table);
  put_header(file_.bytes, header_);
  run(Repair::kNone, 64 << 20);
  ASSERT_TRUE(done_);
  EXPECT_EQ(report_.check_errors, clusters);
  EXPECT_EQ(told_[FaultClass::kUnreadableCount], clusters / kInBlock);
}

// Each half a gigabyte behind the one before it.
TEST_F(CheckRepeatedBlocks, BlocksBehindTheEnd) {
  const uint64_t end = kBlocks * kCluster;
  file_.bytes.resize(end);
  std::vector<std::byte> table(kMaxRefcountTableBytes);
  for (uint64_t i = 0; i < kNames; ++i) {
    store_be64(table.data() + i * 8, end + (i << 29));
  }
  file_.bytes.write(kTable * kCluster, table);
  put_header(file_.bytes, header_);
  run(Repair::kNone, 64 << 20);
  ASSERT_TRUE(done_);
  EXPECT_EQ(told_[FaultClass::kOutsideFile], kNames);
  run(Repair::kAll, 256 << 20);
  ASSERT_TRUE(done_);
  EXPECT_LE(file_.bytes.size(), end + kMaxGrowthForBlocks + 16 * kCluster);
  run(Repair::kNone, 64 << 20);
  ASSERT_TRUE(done_);
  EXPECT_TRUE(report_.clean()) << report_.describe();
}

}  // namespace
}  // namespace blockbed::qcow2::test
