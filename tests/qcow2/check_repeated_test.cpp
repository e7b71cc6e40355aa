// Tables that are named again and again: the totals are right, and soon there.
#include <gtest/gtest.h>

#include <algorithm>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/repair.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/qcow2/put_tables.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint32_t kClusterBits = 21;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
constexpr uint64_t kL2Entries = kCluster / 8;
// Names enough for days: each of them of so many entries.
constexpr uint64_t kL1Entries = uint64_t{1} << 20;
constexpr uint64_t kDataClusters = 2048;

// Clusters of the file.
enum Place : uint64_t {
  kTableOfBlocks = 1,
  kBlock,
  kL1,
  kL2 = kL1 + kL1Entries * 8 / kCluster,
  kSnapshots,
  kDirectory = kSnapshots + 4,
  kBitmapTable,
  kData,
  kEnd = kData + kDataClusters,
};

class CheckRepeated : public ::testing::Test {
 public:
  CheckRepeated() {
    header_.cluster_bits = kClusterBits;
    header_.size = kCluster;
    header_.l1_size = 1;
    header_.l1_offset = kL1 * kCluster;
    header_.refcount_table_offset = kTableOfBlocks * kCluster;
    header_.refcount_table_clusters = 1;
    header_.refcount_order = 5;
    file_.bytes.resize(kEnd * kCluster);
    put(kTableOfBlocks, {kBlock * kCluster});
  }

  void put(uint64_t cluster, const std::vector<uint64_t>& entries) {
    put_entries(file_.bytes, cluster * kCluster, entries);
  }
  // Every entry of the L1 table names the one L2 table, and all of its entries name data.
  void fill_tables() {
    put(kL1, std::vector<uint64_t>(kL1Entries, kL2 * kCluster));
    std::vector<uint64_t> data(kL2Entries);
    for (uint64_t i = 0; i < kL2Entries; ++i) data[i] = (kData + i % kDataClusters) * kCluster;
    put(kL2, data);
  }
  void check() {
    counted_.clear();
    put_header(file_.bytes, header_);
    const auto told = [this](const CheckFinding& finding) {
      if (finding.fault == FaultClass::kUncounted) {
        counted_[finding.offset / kCluster] = finding.referred;
      }
    };
    done_ = env_.run(check_image(file_, header_, report_, told));
  }

  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  Header header_;
  CheckReport report_;
  Result<void> done_;
  // References by cluster.
  std::map<uint64_t, uint64_t> counted_;
};

TEST_F(CheckRepeated, L1TableNamesOneTable) {
  fill_tables();
  header_.l1_size = kL1Entries;
  check();
  ASSERT_TRUE(done_);
  EXPECT_EQ(counted_[kL2], kL1Entries);
  EXPECT_EQ(counted_[kData], kL1Entries * (kL2Entries / kDataClusters));
  EXPECT_EQ(counted_[kEnd - 1], counted_[kData]);
  EXPECT_EQ(report_.allocated_clusters, kL1Entries * kL2Entries);
}

// The counts do not say how often the table is named.
TEST_F(CheckRepeated, L1TableNamesOneTableWhereCountsHaveOneBit) {
  header_.refcount_order = 0;
  put(kL1, std::vector<uint64_t>(kL1Entries, kL2 * kCluster));
  put(kL2, {kData * kCluster | kEntryCopied});
  header_.l1_size = kL1Entries;
  file_.may_read = 128 << 20;
  check();
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_EQ(report_.allocated_clusters, kL1Entries);
  // References that the counts of the table and of the data cannot say, nine clusters that are not
  // counted, and the data's flag.
  EXPECT_EQ(report_.corruptions, 2 * (kL1Entries - 1) + 9 + kL1Entries);
}

// Each begins a cluster behind the one before it, and most reach over the next ones.
TEST_F(CheckRepeated, SnapshotsShareStretchesOfTheirL1Tables) {
  constexpr uint32_t kEntries = 32768;
  fill_tables();
  put(kL1, {0});
  std::vector<SnapshotL1> l1s(kEntries);
  for (uint32_t i = 0; i < kEntries; ++i) {
    const uint64_t skipped = i % 4;
    l1s[i].offset = (kL1 + skipped) * kCluster;
    l1s[i].entries = static_cast<uint32_t>(kL1Entries - skipped * kL2Entries);
  }
  put_snapshots(file_.bytes, kSnapshots * kCluster, l1s);
  header_.snapshot_count = kEntries;
  header_.snapshots_offset = kSnapshots * kCluster;
  check();
  ASSERT_TRUE(done_);
  // The first entry is nothing, and the disk's own.
  const uint64_t names =
      uint64_t{kEntries} * kL1Entries - kEntries / 4 * 6 * kL2Entries - kEntries / 4;
  EXPECT_EQ(counted_[kL1], kEntries / 4 + 1);
  EXPECT_EQ(counted_[kL1 + 3], kEntries);
  EXPECT_EQ(counted_[kL2 - 1], kEntries);
  EXPECT_EQ(counted_[kL2], std::min<uint64_t>(names, UINT32_MAX));
  EXPECT_EQ(counted_[kData], UINT32_MAX);
  EXPECT_GT(report_.corruptions, names);
}

TEST_F(CheckRepeated, BitmapsShareTheirTable) {
  constexpr uint32_t kBitmaps = 65535;
  std::vector<StoredBitmap> bitmaps(kBitmaps);
  for (StoredBitmap& bitmap : bitmaps) {
    bitmap.table_offset = kBitmapTable * kCluster;
    bitmap.table_entries = static_cast<uint32_t>(kMaxBitmapBytes >> kClusterBits);
    bitmap.type = 1;
    bitmap.granularity_bits = 16;
    bitmap.name = "b";
  }
  const std::vector<std::byte> directory = serialise_directory(bitmaps);
  file_.bytes.write(kDirectory * kCluster, directory);
  put(kBitmapTable, std::vector<uint64_t>(bitmaps[0].table_entries, kData * kCluster));
  header_.bitmaps = BitmapsExtension{kBitmaps, directory.size(), kDirectory * kCluster};
  header_.autoclear_features |= autoclear::kBitmaps;
  check();
  ASSERT_TRUE(done_);
  EXPECT_EQ(counted_[kBitmapTable], kBitmaps);
  EXPECT_EQ(counted_[kData], uint64_t{kBitmaps} * bitmaps[0].table_entries);
}

// Every sector of the file begins another table: no two are the same.
TEST_F(CheckRepeated, TablesWithinEachOther) {
  std::vector<uint64_t> tables(kL1Entries);
  for (uint64_t i = 0; i < kL1Entries; ++i)
    tables[i] = kL2 * kCluster + i * 512 % (kCluster * 1024);
  put(kL1, tables);
  header_.l1_size = kL1Entries;
  check();
  EXPECT_EQ(done_, io_error(EFBIG));
}

}  // namespace
}  // namespace blockbed::qcow2::test
