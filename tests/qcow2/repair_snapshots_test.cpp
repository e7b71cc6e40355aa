// What a repair does with the snapshot table, and where an L1 table of a snapshot lies in the place
// of something else: one repair is enough, and leaves nothing of its own behind.
#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/repair.h"
#include "block/formats/qcow2/snapshots.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/qcow2/put_tables.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint32_t kClusterBits = 9;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
// Of put_snapshots().
constexpr uint64_t kEntryBytes = 64;

// Clusters of the file.
enum Place : uint64_t { kTableOfBlocks = 1, kBlock, kL1, kL2, kData, kSnapshots };

class RepairSnapshots : public ::testing::Test {
 public:
  RepairSnapshots() {
    header_.cluster_bits = kClusterBits;
    header_.size = 64 * kCluster;
    header_.l1_size = 1;
    header_.l1_offset = kL1 * kCluster;
    header_.refcount_table_offset = kTableOfBlocks * kCluster;
    header_.refcount_table_clusters = 1;
    header_.refcount_order = 6;
    header_.snapshots_offset = kSnapshots * kCluster;
    file_.bytes.resize(8 << 20);
    put(kTableOfBlocks, {kBlock * kCluster});
  }

  void put(uint64_t cluster, const std::vector<uint64_t>& entries) {
    put_entries(file_.bytes, cluster * kCluster, entries);
  }
  void put_be32(uint64_t at, uint32_t value) {
    std::byte bytes[4];
    store_be<uint32_t>(bytes, value);
    file_.bytes.write(at, bytes);
  }
  void put_table(const std::vector<SnapshotL1>& l1s) {
    put_snapshots(file_.bytes, kSnapshots * kCluster, l1s);
    header_.snapshot_count = static_cast<uint32_t>(l1s.size());
    end_ = kSnapshots + (l1s.size() * kEntryBytes + kCluster - 1) / kCluster;
  }
  // Everything up to the end once, but these clusters.
  void put_counts(std::map<uint64_t, uint64_t> others) {
    std::vector<uint64_t> counts(end_, 1);
    for (const auto& [cluster, count] : others) counts[cluster] = count;
    put(kBlock, counts);
  }
  void repair() {
    file_.bytes.resize(end_ * kCluster);
    put_header(file_.bytes, header_);
    auto done =
        env_.run(repair_image(file_, header_, RepairOptions(Repair::kAll), repaired_, nullptr));
    ASSERT_TRUE(done) << strerror_text(done.error());
    auto checked = env_.run(check_image(file_, header_));
    ASSERT_TRUE(checked);
    EXPECT_EQ(checked->leaks, 0u) << checked->describe();
    EXPECT_EQ(checked->corruptions, 0u) << checked->describe();
    EXPECT_EQ(checked->check_errors, 0u) << checked->describe();
  }

  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  Header header_;
  // Of the file, in clusters.
  uint64_t end_ = kSnapshots;
  CheckReport repaired_;
};

// As in qemu-img.
TEST_F(RepairSnapshots, ATableThatIsOnlyTooLongStaysWhereItIs) {
  put_table(std::vector<SnapshotL1>(kMaxSnapshots + 1));
  repair();
  EXPECT_GE(repaired_.corruptions_fixed, 1u);
  EXPECT_EQ(header_.snapshot_count, kMaxSnapshots);
  EXPECT_EQ(header_.snapshots_offset, kSnapshots * kCluster);
}

// What the block can count ends behind the old table.
TEST_F(RepairSnapshots, ANewTableMayNeedNewRefcountBlocks) {
  constexpr uint32_t kEntries = 400;
  put_table(std::vector<SnapshotL1>(kEntries));
  for (uint64_t i = 0; i < kEntries; ++i) {
    const uint64_t entry = kSnapshots * kCluster + i * kEntryBytes;
    // All that is behind the fixed part is the id.
    put_be32(entry + 12, 24 << 16);
    put_be32(entry + 36, 0);
  }
  ASSERT_LE(end_, kCluster / 8);
  put_counts({{kL2, 0}, {kData, 0}});
  repair();
  EXPECT_EQ(repaired_.corruptions_fixed, kEntries);
  EXPECT_EQ(repaired_.leaks_fixed, 0u);
  EXPECT_GT(header_.snapshots_offset, kSnapshots * kCluster);
  auto snapshots = env_.run(load_snapshots(file_, header_));
  ASSERT_TRUE(snapshots) << snapshots.error().description;
  EXPECT_EQ(snapshots->snapshots.size(), kEntries);
}

// It is not exact in an L1 table of a snapshot, and nobody asks for it.
TEST_F(RepairSnapshots, TheCopiedFlagIsSetInATableThatIsAlsoASnapshotsL1) {
  put(kL1, {kL2 * kCluster});
  put(kL2, {0, 0, 0, kData * kCluster});
  put_table({SnapshotL1{kL2 * kCluster, 1}});
  put_counts({{kL2, 2}, {kData, 2}});
  repair();
  EXPECT_EQ(repaired_.leaks_fixed, 1u);
  EXPECT_EQ(repaired_.corruptions_fixed, 1u);
}

// Two names of one table: what has a flag is referred to twice.
TEST_F(RepairSnapshots, TheCopiedFlagIsClearedInAnL1TableThatIsAlsoASnapshots) {
  put(kL1, {kL2 * kCluster | kEntryCopied});
  put_table({SnapshotL1{kL1 * kCluster, 1}});
  put_counts({{kL1, 2}, {kL2, 2}, {kData, 0}});
  repair();
  EXPECT_EQ(repaired_.corruptions_fixed, 1u);
}

}  // namespace
}  // namespace blockbed::qcow2::test
