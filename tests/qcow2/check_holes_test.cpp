// Tables in holes of the file are not read: what a check finds and a repair makes is the same as
// where their zeroes are written, however many there are.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/repair.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/qcow2/put_tables.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

// --- few tables, of every kind and in every state

// As long as what SparseBytes can leave out.
constexpr uint64_t kSmallCluster = sim::SparseBytes::kChunk;
constexpr uint64_t kSmallClusters = 64;

struct SmallImage {
  sim::SparseBytes bytes{kSmallClusters * kSmallCluster};
  Header header;
};

SmallImage make_small(uint64_t seed) {
  sim::SimRandom chance(seed, 77);
  SmallImage image;
  // A few of them behind the end.
  const auto cluster = [&] { return (1 + chance.below(kSmallClusters + 2)) * kSmallCluster; };
  const auto inside = [&] { return (1 + chance.below(kSmallClusters - 1)) * kSmallCluster; };
  const auto entry = [&]() -> uint64_t {
    const uint64_t place = cluster();
    switch (chance.below(8)) {
      case 0:
        return place;
      case 1:
        return place | 1;
      case 2:
        return (place + 512) | 1;
      case 3:
        return place | kEntryCompressed;
      default:
        return place | kEntryCopied;
    }
  };
  // Nothing is written to tables that stay empty.
  const auto fill = [&](uint64_t table, uint64_t entries, unsigned percent, const auto& value) {
    if (table >= image.bytes.size()) return;
    for (uint64_t i = 0; i < entries; ++i) {
      if (chance.percent(percent)) put_entries(image.bytes, table + i * 8, {value()});
    }
  };
  Header& header = image.header;
  header.cluster_bits = 12;
  header.refcount_order = 4;
  header.size = uint64_t{1} << 30;
  header.l1_offset = inside();
  header.l1_size = static_cast<uint32_t>(1 + chance.below(512));
  std::vector<uint64_t> l2s(1 + chance.below(20));
  for (uint64_t& table : l2s) table = cluster() | (chance.percent(70) ? kEntryCopied : 0);
  const auto l2 = [&] { return l2s[chance.below(l2s.size())]; };
  fill(header.l1_offset, header.l1_size, chance.percent(50) ? 5 : 50, l2);
  for (uint64_t table : l2s) {
    if (chance.percent(30)) fill(table & kOffsetMask, 512, 2, entry);
  }
  header.refcount_table_offset = inside();
  header.refcount_table_clusters = 1;
  if (chance.percent(90)) {
    fill(header.refcount_table_offset, 1 + chance.below(6), 60, cluster);
  }
  const uint64_t block = inside();
  if (chance.percent(70)) {
    put_entries(image.bytes, header.refcount_table_offset, {block});
    const auto counts = [&] {
      return chance.below(3) | chance.below(3) << 16 | chance.below(2) << 32;
    };
    if (chance.percent(80)) fill(block, 20, 70, counts);
  }
  if (chance.percent(50)) {
    std::vector<SnapshotL1> l1s(1 + chance.below(4));
    for (SnapshotL1& l1 : l1s) {
      l1.offset = cluster();
      l1.entries = static_cast<uint32_t>(chance.below(1500));
      if (chance.percent(30)) fill(l1.offset, 100, 3, l2);
    }
    header.snapshots_offset = inside();
    header.snapshot_count = static_cast<uint32_t>(l1s.size());
    put_snapshots(image.bytes, header.snapshots_offset, l1s);
  }
  if (chance.percent(50)) {
    std::vector<StoredBitmap> bitmaps(1 + chance.below(3));
    for (StoredBitmap& bitmap : bitmaps) {
      bitmap.table_offset = inside();
      bitmap.table_entries = static_cast<uint32_t>(1 + chance.below(1500));
      bitmap.name = "b";
      if (chance.percent(30)) fill(bitmap.table_offset, 100, 3, cluster);
    }
    const uint64_t at = inside();
    const std::vector<std::byte> directory = serialise_directory(bitmaps);
    image.bytes.write(at, directory);
    header.bitmaps = BitmapsExtension{static_cast<uint32_t>(bitmaps.size()), directory.size(), at};
    header.autoclear_features |= autoclear::kBitmaps;
  }
  put_header(image.bytes, header);
  return image;
}

enum class Doing { kCheck, kRepairLeaks, kRepairAll, kRaiseInPlace };

struct Outcome {
  std::string text;
  sim::SparseBytes bytes;
  uint64_t read = 0;
};

enum class Zeroes { kHoles, kHolesNobodyKnows, kWritten };

Outcome run_small(sim::SimEnv& env, SmallImage image, Doing doing, Zeroes zeroes) {
  MemoryStorage file(env.executor(), 1, 0);
  file.bytes = image.bytes;
  if (zeroes == Zeroes::kWritten) file.bytes.write(0, image.bytes.bytes());
  file.tells_holes = zeroes != Zeroes::kHolesNobodyKnows;
  CheckReport report;
  Outcome outcome;
  const auto told = [&](const CheckFinding& finding) {
    outcome.text +=
        fmt::format("{} {} {:#x} {}\n", fault_class_name(finding.fault),
                    finding.repaired ? "repaired" : "told", finding.offset, finding.text);
  };
  Result<void> done;
  if (doing == Doing::kCheck) {
    done = env.run(check_image(file, image.header, report, told));
  } else {
    RepairOptions options(doing == Doing::kRepairLeaks ? Repair::kLeaks : Repair::kAll);
    options.raise_in_place = doing == Doing::kRaiseInPlace;
    done = env.run(repair_image(file, image.header, options, report, told));
  }
  outcome.text +=
      fmt::format("{} fixed {} {} end {} clusters {} {} {} {}: {}", report.describe(),
                  report.leaks_fixed, report.corruptions_fixed, report.image_end_offset,
                  report.total_clusters, report.allocated_clusters, report.compressed_clusters,
                  report.fragmented_clusters, done ? "done" : strerror_text(done.error()));
  outcome.bytes = std::move(file.bytes);
  outcome.read = UINT64_MAX - file.may_read;
  return outcome;
}

TEST(CheckHoles, FindAndRepairWhatWrittenZeroesDo) {
  sim::SimEnv env(1);
  std::map<Doing, uint64_t> not_read;
  const bool passed = sim::for_each_seed(100, [&](uint64_t seed) {
    const SmallImage image = make_small(seed);
    for (const Doing doing :
         {Doing::kCheck, Doing::kRepairLeaks, Doing::kRepairAll, Doing::kRaiseInPlace}) {
      const Outcome written = run_small(env, image, doing, Zeroes::kWritten);
      const Outcome unknown = run_small(env, image, doing, Zeroes::kHolesNobodyKnows);
      const Outcome holes = run_small(env, image, doing, Zeroes::kHoles);
      EXPECT_EQ(holes.text, written.text);
      EXPECT_EQ(unknown.text, written.text);
      EXPECT_TRUE(holes.bytes == written.bytes);
      EXPECT_TRUE(unknown.bytes == written.bytes);
      // A repair may make a file longer, by a hole.
      EXPECT_LE(holes.read, written.read);
      EXPECT_LE(written.read, unknown.read);
      not_read[doing] += written.read - holes.read;
    }
  });
  if (!passed) return;
  for (const auto& [doing, bytes] : not_read) EXPECT_GT(bytes, 1u << 20);
}

// --- very many

constexpr uint32_t kClusterBits = 21;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
// Each of them 128 GiB.
constexpr uint64_t kRefcountBlocks = 1 << 16;
constexpr uint64_t kL2Tables = 1 << 16;
constexpr uint64_t kSnapshotL1s = 4096;

// Clusters of the file.
enum Cluster : uint64_t {
  kTable = 1,
  kBlock,
  kL1,
  kSnapshots,
  kFree,
};

class CheckManyHoles : public ::testing::Test {
 public:
  CheckManyHoles() {
    header_.cluster_bits = kClusterBits;
    header_.size = kCluster;
    header_.refcount_order = 4;
    header_.l1_offset = kL1 * kCluster;
    header_.l1_size = kL2Tables;
    header_.refcount_table_offset = kTable * kCluster;
    header_.refcount_table_clusters = kBlock - kTable;
  }

  // Everything up to here is counted once.
  void make(uint64_t clusters) {
    file_.bytes.resize(clusters * kCluster);
    put_entries(file_.bytes, kTable * kCluster, {kBlock * kCluster});
    std::vector<std::byte> counts(kCluster);
    for (uint64_t cluster = 0; cluster < clusters; ++cluster) {
      if (header_.snapshot_count > 0 || cluster != kSnapshots) {
        set_refcount(counts.data(), cluster, header_.refcount_order, 1);
      }
    }
    file_.bytes.write(kBlock * kCluster, counts);
  }
  void check(uint64_t may_read) {
    put_header(file_.bytes, header_);
    told_.clear();
    report_ = {};
    file_.may_read = may_read;
    done_ = env_.run(check_image(file_, header_, report_, told()));
  }
  FindingSink told() {
    return [this](const CheckFinding& finding) { ++told_[finding.fault]; };
  }

  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  Header header_;
  CheckReport report_;
  Result<void> done_;
  std::map<FaultClass, uint64_t> told_;
};

// What is read of an image with nothing in its holes, and one table in each of them.
constexpr uint64_t kFewBytes = uint64_t{40} << 20;

TEST_F(CheckManyHoles, L2Tables) {
  make(kFree + kL2Tables);
  std::vector<uint64_t> l1(kL2Tables);
  for (uint64_t i = 0; i < kL2Tables; ++i) l1[i] = (kFree + i) * kCluster | kEntryCopied;
  put_entries(file_.bytes, kL1 * kCluster, l1);
  check(kFewBytes);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_TRUE(report_.clean()) << report_.describe();
  EXPECT_LT(file_.asked, 10u);
}

// By turns before and behind some data, from the last one on: no answer tells of the next table.
TEST_F(CheckManyHoles, L2TablesFromTheLastOneOn) {
  constexpr uint64_t kHalf = kL2Tables / 2;
  make(kFree + kL2Tables + 1);
  std::vector<uint64_t> l1(kL2Tables);
  for (uint64_t i = 0; i < kL2Tables; ++i) {
    const uint64_t place = (i % 2 == 0 ? kHalf : kL2Tables + 1) - 1 - i / 2;
    l1[i] = (kFree + place) * kCluster | kEntryCopied;
  }
  put_entries(file_.bytes, kL1 * kCluster, l1);
  put_entries(file_.bytes, (kFree + kHalf) * kCluster, {1});
  check(kFewBytes);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_EQ(report_.corruptions, 0u) << report_.describe();
  EXPECT_EQ(report_.leaks, 1u);
  EXPECT_LT(file_.asked, 2 * kL2Tables + 10);
}

TEST_F(CheckManyHoles, L1TablesOfSnapshots) {
  constexpr uint64_t kClusters = kMaxL1Bytes / kCluster;
  header_.snapshot_count = kSnapshotL1s;
  header_.snapshots_offset = kSnapshots * kCluster;
  make(kFree + kSnapshotL1s * kClusters);
  std::vector<SnapshotL1> l1s(kSnapshotL1s);
  for (uint64_t i = 0; i < kSnapshotL1s; ++i) {
    l1s[i].offset = (kFree + i * kClusters) * kCluster;
    l1s[i].entries = kMaxL1Bytes / 8;
  }
  put_snapshots(file_.bytes, kSnapshots * kCluster, l1s);
  check(kFewBytes);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_TRUE(report_.clean()) << report_.describe();
  EXPECT_LT(file_.asked, 10u);
}

class CheckManyBlocks : public CheckManyHoles {
 public:
  CheckManyBlocks() {
    header_.l1_size = 0;
    // All of them count clusters of the file.
    file_.bytes.resize(kRefcountBlocks << (header_.geometry().refcount_block_bits + kClusterBits));
    std::vector<uint64_t> table(kRefcountBlocks);
    for (uint64_t i = 0; i < kRefcountBlocks; ++i) table[i] = (kBlock + i) * kCluster;
    put_entries(file_.bytes, kTable * kCluster, table);
    put_header(file_.bytes, header_);
  }
  // The header, the table and the blocks.
  static constexpr uint64_t kUncounted = kBlock + kRefcountBlocks;
};

TEST_F(CheckManyBlocks, Check) {
  check(kFewBytes);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_EQ(report_.corruptions, kUncounted);
  EXPECT_EQ(told_[FaultClass::kUncounted], kUncounted);
  EXPECT_EQ(report_.leaks, 0u);
  EXPECT_EQ(report_.image_end_offset, kUncounted * kCluster);
  EXPECT_LT(file_.asked, 10u);
}

// New ones are made, and these are given back.
TEST_F(CheckManyBlocks, Repair) {
  file_.may_read = 3 * kFewBytes;
  done_ = env_.run(repair_image(file_, header_, RepairOptions(Repair::kAll), report_, told()));
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_TRUE(report_.clean()) << report_.describe();
  EXPECT_EQ(report_.corruptions_fixed, kUncounted);
  EXPECT_LT(file_.asked, 50u);
  EXPECT_LT(file_.bytes.allocated(), kFewBytes);
  check(kFewBytes);
  ASSERT_TRUE(done_);
  EXPECT_TRUE(report_.clean()) << report_.describe();
}

// They stay, and some of them get counts.
TEST_F(CheckManyBlocks, RaiseInPlace) {
  file_.may_read = 2 * kFewBytes;
  done_ = env_.run(repair_counts(file_, header_));
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_LT(file_.asked, 50u);
  check(kFewBytes);
  ASSERT_TRUE(done_);
  EXPECT_TRUE(report_.clean()) << report_.describe();
}

// --- none

TEST_F(CheckManyHoles, NothingIsAskedWhereTablesHoldSomething) {
  constexpr uint64_t kTables = 8;
  header_.l1_size = kTables;
  make(kFree + 2 * kTables);
  std::vector<uint64_t> l1(kTables);
  for (uint64_t i = 0; i < kTables; ++i) {
    // A hole between any two.
    l1[i] = (kFree + 2 * i) * kCluster | kEntryCopied;
    put_entries(file_.bytes, (kFree + 2 * i) * kCluster + kCluster / 2,
                {(kFree + 2 * i + 1) * kCluster | kEntryCopied});
  }
  put_entries(file_.bytes, kL1 * kCluster, l1);
  check(2 * kFewBytes);
  ASSERT_TRUE(done_) << strerror_text(done_.error());
  EXPECT_TRUE(report_.clean()) << report_.describe();
  EXPECT_EQ(file_.asked, 0u);
}

}  // namespace
}  // namespace blockbed::qcow2::test
