// Power cuts at every change that a repair makes, and requests of it that fail, of images of many
// kinds: several refcount blocks, other clusters and counts, snapshots, compressed clusters,
// subclusters, a data file; by each of the ways to repair. What is left is no worse than it was,
// the same repair makes it right, and the disk and its snapshot hold what they held.
#include <gtest/gtest.h>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/repair_walk_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

// The file of an image, and its counts.
class RawImage {
 public:
  explicit RawImage(Bytes content) : bytes(std::move(content)) {
    bits_ = load_be<uint32_t>(bytes.data() + 20);
    order_ = load_be<uint32_t>(bytes.data() + 4) < 3 ? 4 : load_be<uint32_t>(bytes.data() + 96);
    entry_bytes_ = load_be<uint32_t>(bytes.data() + 4) < 3 || (get(72) & 16) == 0 ? 8 : 16;
  }

  Bytes bytes;

  uint64_t get(uint64_t at) const { return load_be64(bytes.data() + at); }
  void put(uint64_t at, uint64_t value) { store_be64(bytes.data() + at, value); }
  uint64_t cluster() const { return uint64_t{1} << bits_; }
  uint64_t clusters() const { return bytes.size() >> bits_; }
  uint64_t max() const { return order_ >= 5 ? UINT32_MAX : (uint64_t{1} << (1U << order_)) - 1; }
  uint64_t table() const { return get(48); }
  // 0: none.
  uint64_t block_of(uint64_t cluster) const {
    return get(table() + (cluster >> (bits_ + 3 - order_)) * 8);
  }
  uint64_t count(uint64_t cluster) const {
    return get_refcount(bytes.data() + block_of(cluster), in_block(cluster), order_);
  }
  void set_count(uint64_t cluster, uint64_t count) {
    set_refcount(bytes.data() + block_of(cluster), in_block(cluster), order_, count);
  }
  template <typename Function>
  void for_each_used(Function fn) {
    for (uint64_t i = 1; i < clusters(); ++i) {
      if (block_of(i) != 0 && count(i) != 0) fn(i);
    }
  }
  template <typename Function>
  void for_each_block(Function fn) {
    for (uint64_t at = table(); at < table() + cluster(); at += 8) {
      if (get(at) != 0) fn(at);
    }
  }
  // The entries of the L1 table and of the disk's L2 tables.
  template <typename Function>
  void for_each_entry(Function fn) {
    const uint64_t l1 = get(40);
    for (uint64_t at = l1; at < l1 + load_be<uint32_t>(bytes.data() + 36) * uint64_t{8}; at += 8) {
      const uint64_t l2 = get(at) & kOffsetMask;
      if (l2 == 0) continue;
      fn(at);
      for (uint64_t entry = l2; entry < l2 + cluster(); entry += entry_bytes_) fn(entry);
    }
  }

 private:
  uint64_t in_block(uint64_t cluster) const {
    return cluster & ((uint64_t{1} << (bits_ + 3 - order_)) - 1);
  }

  uint32_t bits_;
  uint32_t order_;
  uint32_t entry_bytes_;
};

// --- what is wrong

using Break = void (*)(RawImage&);

void leaks(RawImage& i) {
  for (int n = 0; n < 5; ++n) {
    const uint64_t last = i.clusters();
    i.bytes.resize((last + 1) * i.cluster());
    if (i.block_of(last) != 0) i.set_count(last, std::min<uint64_t>(3, i.max()));
  }
}
void counted_too_often(RawImage& i) {
  leaks(i);
  i.for_each_used([&](uint64_t c) {
    if (c % 3 == 0) i.set_count(c, std::min(i.count(c) + 2, i.max()));
  });
}
void uncounted(RawImage& i) {
  i.for_each_used([&](uint64_t c) {
    if (c % 3 == 0) i.set_count(c, 0);
  });
}
void no_counts(RawImage& i) {
  i.for_each_block(
      [&](uint64_t entry) { std::memset(i.bytes.data() + i.get(entry), 0, i.cluster()); });
}
// The last block.
void no_block(RawImage& i) {
  uint64_t last = 0;
  i.for_each_block([&](uint64_t entry) { last = entry; });
  i.put(last, 0);
}
void flags(RawImage& i) {
  int n = 0;
  i.for_each_entry([&](uint64_t entry) {
    if (n++ % 2 == 0) i.put(entry, i.get(entry) & ~kEntryCopied);
  });
}
void dirty(RawImage& i) {
  i.put(72, i.get(72) | 1);
  uncounted(i);
  leaks(i);
}
void dirty_without_counts(RawImage& i) {
  i.put(72, i.get(72) | 1);
  no_counts(i);
}

struct Fault {
  const char* name;
  Break apply;
  How how;
};

constexpr Fault kFaults[] = {
    {"LeaksOnly", leaks, How::kLeaks},
    {"HighCountsAsLeaks", counted_too_often, How::kLeaks},
    {"HighCounts", counted_too_often, How::kAll},
    {"Uncounted", uncounted, How::kAll},
    {"UncountedInPlace", uncounted, How::kInPlace},
    {"NoCounts", no_counts, How::kAll},
    {"NoCountsInPlace", no_counts, How::kInPlace},
    {"NoBlock", no_block, How::kAll},
    {"NoBlockInPlace", no_block, How::kInPlace},
    {"Flags", flags, How::kAll},
    {"FlagsWithLeaks", flags, How::kLeaks},
    {"DirtyAtOpen", dirty, How::kAtOpen},
    {"DirtyWithoutCountsAtOpen", dirty_without_counts, How::kAtOpen},
};

// --- of which images

struct Kind {
  const char* name;
  uint32_t version;
  uint64_t cluster;
  uint32_t refcount_bits;
  uint64_t clusters;
  bool snapshot;
  bool extended_l2;
  bool data_file;
};

constexpr Kind kKinds[] = {
    {"ManyBlocks", 3, 512, 64, 170, false, false, false},
    {"ManyBlocksOfASnapshot", 3, 512, 32, 160, true, false, false},
    {"OneBit", 3, 2048, 1, 40, false, false, false},
    {"Snapshot", 3, 1024, 8, 60, true, false, false},
    {"LargerClusters", 3, 16384, 32, 20, true, false, false},
    {"Subclusters", 3, 16384, 16, 16, true, true, false},
    {"DataFile", 3, 1024, 16, 60, false, false, true},
    {"Version2", 2, 1024, 16, 60, true, false, false},
};

std::string data_path(const Kind& kind) { return kind.data_file ? "data" : ""; }

Task<void> read_disk(Image& image, Bytes& into) {
  into.resize(image.length());
  EXPECT_TRUE(co_await image.read(0, IoVector(into.data(), into.size())));
}

struct Contents {
  Bytes disk;
  Bytes snapshot;
};

Task<void> fill(Env& env, Kind kind, Contents& contents) {
  CreateOptions create;
  create.version = kind.version;
  create.cluster_size = kind.cluster;
  create.refcount_bits = kind.refcount_bits;
  create.extended_l2 = kind.extended_l2;
  create.size = kind.clusters * kind.cluster;
  create.data_file = kind.data_file;
  create.data_file_name = data_path(kind);
  auto made = co_await create_image(env, "disk", create, data_path(kind));
  EXPECT_TRUE(made) << made.error().description;
  auto opened = co_await open_image(env, "disk", writable_options(), {}, data_path(kind));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  Bytes data(create.size * 3 / 4);
  for (std::size_t at = 0; at < data.size(); ++at) data[at] = std::byte(1 + at / 64 % 250);
  EXPECT_TRUE(co_await image.write(0, IoVector(data.data(), data.size())));
  // Two that share a cluster of the file, where counts are wide enough.
  for (uint64_t c = 5; c < 8 && !kind.data_file; ++c) {
    EXPECT_TRUE(
        co_await image.write_compressed(c * kind.cluster, IoVector(data.data(), kind.cluster)));
  }
  if (kind.version >= 3) {
    EXPECT_TRUE(co_await image.zero(3 * kind.cluster - 512, 2 * kind.cluster, RequestFlags()));
  }
  if (kind.snapshot) {
    co_await read_disk(image, contents.snapshot);
    Snapshot snapshot;
    snapshot.name = "before";
    EXPECT_TRUE(co_await image.create_snapshot(snapshot));
    EXPECT_TRUE(co_await image.write(kind.cluster + 512, IoVector(data.data(), 6 * kind.cluster)));
  }
  co_await read_disk(image, contents.disk);
  EXPECT_TRUE(co_await (*opened)->close());
}

Task<void> judge(Env& env, Kind kind, How how, uint64_t faults, const Contents& contents,
                 std::string where) {
  const Outcome left = co_await examine(env, How::kCheck);
  EXPECT_TRUE(left.done) << where;
  EXPECT_LE(left.report.corruptions, faults) << where << left.report.describe();
  const Outcome again = co_await examine(env, how);
  EXPECT_TRUE(again.done) << where << again.report.describe();
  const Outcome right = co_await examine(env, How::kCheck);
  EXPECT_TRUE(right.done && right.report.clean()) << where << right.report.describe();
  auto opened = co_await open_image(env, "disk", writable_options(), {}, data_path(kind));
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  EXPECT_FALSE(image.header().has(incompatible::kDirty)) << where;
  Bytes disk;
  co_await read_disk(image, disk);
  EXPECT_TRUE(same_bytes(disk, contents.disk)) << where;
  if (kind.snapshot) {
    EXPECT_TRUE(co_await image.apply_snapshot(0)) << where;
    co_await read_disk(image, disk);
    EXPECT_TRUE(same_bytes(disk, contents.snapshot)) << where << ", the snapshot";
  }
  EXPECT_TRUE(co_await (*opened)->close()) << where;
}

// An image with a fault, and what a repair of it may find.
class RepairKindsCrash : public ::testing::TestWithParam<std::tuple<Kind, Fault>> {
 protected:
  void SetUp() override {
    if (kind.version < 3 && fault.how == How::kAtOpen) GTEST_SKIP() << "there is no such mark";
    env.run(fill(env, kind, contents));
    RawImage image(env.storage().image().at("disk").bytes());
    image.bytes.resize((image.bytes.size() + kind.cluster - 1) / kind.cluster * kind.cluster);
    fault.apply(image);
    env.storage().put("disk", std::span<const std::byte>(image.bytes));
    files = env.storage().image();

    env.run(store(before, examine(env, How::kCheck)));
    ASSERT_TRUE(before.done);
    ASSERT_FALSE(before.report.clean()) << "the fault is none";
    env.storage().record();
    Outcome repaired;
    env.run(store(repaired, examine(env, fault.how)));
    ASSERT_TRUE(repaired.done) << repaired.report.describe();
    faults = std::max(before.report.corruptions, repaired.report.corruptions_fixed);
  }

  const Kind kind = std::get<0>(GetParam());
  const Fault fault = std::get<1>(GetParam());
  sim::SimEnv env{7};
  Contents contents;
  sim::StorageImage files;
  Outcome before;
  uint64_t faults = 0;
};

TEST_P(RepairKindsCrash, AnyInstantIsSurvived) {
  judge_crashes(env.storage(), 0, 0, 2,
                [&](const sim::StorageImage& left, uint64_t, const std::string& where) {
                  run_after_crash(left, [&](sim::SimEnv& after) {
                    return judge(after, kind, fault.how, faults, contents, where);
                  });
                });
}

class RepairKindsFaults : public RepairKindsCrash {};

TEST_P(RepairKindsFaults, AnyRequestMayFail) {
  for (const FailedRequest& failed : kFailedRequests) {
    // All ways where there is most to be written.
    const bool rare = failed.times > 1 || failed.error == ENOSPC;
    if (rare && kind.cluster != 512) continue;
    fail_each_request(files, fault.how, failed,
                      [&](sim::SimEnv& after, Outcome outcome, std::string where) -> Task<void> {
                        co_await expect_repaired_if_told(after, outcome, where);
                        co_await judge(after, kind, fault.how, faults, contents, where);
                      });
    if (HasFailure()) return;
  }
}

// It says what there is, or that it could not look at all of it.
TEST_P(RepairKindsFaults, AnyRequestOfACheckMayFail) {
  fail_each_request(files, How::kCheck, kFailedRequests[0],
                    [&](sim::SimEnv&, Outcome outcome, std::string where) -> Task<void> {
                      if (outcome.complete()) {
                        EXPECT_EQ(outcome.report.corruptions, before.report.corruptions) << where;
                        EXPECT_EQ(outcome.report.leaks, before.report.leaks) << where;
                      }
                      co_return;
                    });
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Kind, Fault>>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::get<1>(info.param).name;
}

INSTANTIATE_TEST_SUITE_P(Each, RepairKindsCrash,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kFaults)),
                         name_of);
// Those that differ in what is read and written.
INSTANTIATE_TEST_SUITE_P(Each, RepairKindsFaults,
                         ::testing::Combine(::testing::Values(kKinds[0], kKinds[2], kKinds[5],
                                                              kKinds[6]),
                                            ::testing::ValuesIn(kFaults)),
                         name_of);

}  // namespace
}  // namespace blockbed::qcow2::test
