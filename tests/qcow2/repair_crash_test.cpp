// Power cuts at every change of the file that a repair makes, and requests of it that fail: what is
// left is no worse than it was, a second repair makes it right, and the disk holds what it held.
#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/repair.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/repair_walk_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 1024;
constexpr uint64_t kDataClusters = 40;

// The file of an image as bytes, and where its tables are. One refcount block and 16-bit counts.
struct RawImage {
  std::vector<std::byte> bytes;

  uint64_t get(uint64_t at) const { return load_be64(bytes.data() + at); }
  void put(uint64_t at, uint64_t value) { store_be64(bytes.data() + at, value); }
  uint64_t l1() const { return get(40); }
  uint64_t l2() const { return get(l1()) & kOffsetMask; }
  uint64_t refcount_table() const { return get(48); }
  uint64_t block() const { return get(refcount_table()); }
  uint64_t data(uint64_t number) const { return get(l2() + number * 8) & kOffsetMask; }
  void set_count(uint64_t offset, uint64_t count) {
    set_refcount(bytes.data() + block(), offset / kCluster, 4, count);
  }
  uint64_t append(uint64_t count) {
    const uint64_t offset = align_up(bytes.size(), kCluster);
    bytes.resize(offset + kCluster);
    set_count(offset, count);
    return offset;
  }
};

using Break = void (*)(RawImage&);

void leaks(RawImage& i) {
  for (int n = 0; n < 5; ++n) i.append(3);
}
void counted_too_often(RawImage& i) {
  for (uint64_t n = 0; n < kDataClusters; n += 3) i.set_count(i.data(n), 9);
}
void uncounted(RawImage& i) {
  for (uint64_t n = 0; n < kDataClusters; n += 3) i.set_count(i.data(n), 0);
}
void counted_too_rarely(RawImage& i) {
  // Two guest clusters in one place, counted once and both COPIED: the second is not read below.
  i.put(i.l2() + kDataClusters * 8, i.get(i.l2()));
}
void no_counts(RawImage& i) { std::memset(i.bytes.data() + i.block(), 0, kCluster); }
void no_blocks(RawImage& i) { std::memset(i.bytes.data() + i.refcount_table(), 0, kCluster); }
void broken_block(RawImage& i) { i.put(i.refcount_table(), i.block() | 1); }
void block_behind_the_end(RawImage& i) {
  i.put(i.refcount_table() + 8, align_up(i.bytes.size(), kCluster) + 3 * kCluster);
}
void no_table(RawImage& i) { store_be<uint32_t>(i.bytes.data() + 56, 0u); }
void flags(RawImage& i) {
  i.put(i.l1(), i.get(i.l1()) & ~kEntryCopied);
  for (uint64_t n = 0; n < kDataClusters; n += 2) {
    i.put(i.l2() + n * 8, i.get(i.l2() + n * 8) & ~kEntryCopied);
  }
}
void preallocation(RawImage& i) {
  for (uint64_t n = kDataClusters; n < kDataClusters + 6; ++n) {
    i.put(i.l2() + n * 8, (i.data(0) + n * kCluster + 512) | 1);
  }
}
void snapshot_entry(RawImage& i) {
  const uint64_t table = i.append(1);
  const uint64_t l1 = i.append(1);
  i.put(table, l1);
  store_be<uint32_t>(i.bytes.data() + table + 8, 1u);
  store_be<uint16_t>(i.bytes.data() + table + 12, 1);
  store_be<uint16_t>(i.bytes.data() + table + 14, 3);
  // No extra data, as version 3 must have it.
  std::memcpy(i.bytes.data() + table + 40, "1one", 4);
  store_be<uint32_t>(i.bytes.data() + 60, 1u);
  i.put(64, table);
}
void marked_corrupt_and_dirty(RawImage& i) {
  i.put(72, 3);
  leaks(i);
}
void all_at_once(RawImage& i) {
  snapshot_entry(i);
  flags(i);
  leaks(i);
  uncounted(i);
  i.put(72, 3);
}

struct Fault {
  const char* name;
  Break apply;
  bool raise_in_place;
};

Task<void> fill(Env& env) {
  CreateOptions create;
  create.cluster_size = kCluster;
  create.size = 64 * kCluster;
  auto made = co_await create_image(env, "disk", create);
  EXPECT_TRUE(made);
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  std::vector<std::byte> data(kDataClusters * kCluster);
  for (std::size_t at = 0; at < data.size(); ++at) data[at] = std::byte(at / 64);
  EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(data.data(), data.size())));
  EXPECT_TRUE(co_await (*opened)->close());
}

Task<RawImage> load(Env& env) {
  RawImage image;
  FileOpenOptions how;
  auto file = co_await env.open_file("disk", how);
  auto info = co_await (*file)->info();
  image.bytes.resize(info->size);
  EXPECT_TRUE(co_await (*file)->read(0, IoVector(image.bytes.data(), image.bytes.size())));
  (void)co_await (*file)->close();
  co_return image;
}

// `faults`: as many as there were, or as came to light while they were repaired: flags agree with
// counts as long as those are wrong.
Task<void> judge(Env& env, uint64_t faults, bool raise_in_place, std::string where) {
  const Outcome left = co_await examine(env, How::kCheck);
  EXPECT_TRUE(left.done) << where;
  EXPECT_LE(left.report.corruptions, faults) << where << left.report.describe();
  const Outcome again = co_await examine(env, raise_in_place ? How::kInPlace : How::kAll);
  EXPECT_TRUE(again.done) << where << again.report.describe();
  const Outcome right = co_await examine(env, How::kCheck);
  EXPECT_TRUE(right.done && right.report.clean()) << where << right.report.describe();
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return;
  EXPECT_FALSE((*opened)->image->header().has(incompatible::kDirty | incompatible::kCorrupt))
      << where;
  std::vector<std::byte> disk(kDataClusters * kCluster);
  EXPECT_TRUE(co_await (*opened)->image->read(0, IoVector(disk.data(), disk.size()))) << where;
  for (std::size_t at = 0; at < disk.size(); ++at) {
    if (disk[at] == std::byte(at / 64)) continue;
    ADD_FAILURE() << where << ": byte " << at << " is lost";
    break;
  }
  EXPECT_TRUE(co_await (*opened)->close()) << where;
}

Task<void> keep(RawImage& into, Task<RawImage> from) { into = co_await std::move(from); }

// An image with a fault, and what a repair of it may find.
class RepairCrash : public ::testing::TestWithParam<Fault> {
 protected:
  void SetUp() override {
    env.run(fill(env));
    RawImage image;
    env.run(keep(image, load(env)));
    fault.apply(image);
    env.storage().put("disk", std::span<const std::byte>(image.bytes));
    files = env.storage().image();

    Outcome before;
    env.run(store(before, examine(env, How::kCheck)));
    ASSERT_TRUE(before.done);
    ASSERT_FALSE(before.report.clean()) << "the fault is none";
    env.storage().record();
    Outcome repaired;
    env.run(store(repaired, examine(env, how)));
    ASSERT_TRUE(repaired.done) << repaired.report.describe();
    EXPECT_GT(repaired.report.corruptions_fixed + repaired.report.leaks_fixed, 0u);
    faults = std::max(before.report.corruptions, repaired.report.corruptions_fixed);
  }

  const Fault fault = GetParam();
  const How how = fault.raise_in_place ? How::kInPlace : How::kAll;
  sim::SimEnv env{7};
  sim::StorageImage files;
  uint64_t faults = 0;
};

TEST_P(RepairCrash, AnyInstantIsSurvived) {
  judge_crashes(env.storage(), 0, 0, 6,
                [&](const sim::StorageImage& left, uint64_t, const std::string& where) {
                  run_after_crash(left, [&](sim::SimEnv& after) {
                    return judge(after, faults, fault.raise_in_place, where);
                  });
                });
}

TEST_P(RepairCrash, AnyRequestMayFail) {
  for (const FailedRequest& failed : kFailedRequests) {
    fail_each_request(files, how, failed,
                      [&](sim::SimEnv& after, Outcome outcome, std::string where) -> Task<void> {
                        co_await expect_repaired_if_told(after, outcome, where);
                        co_await judge(after, faults, fault.raise_in_place, where);
                      });
    if (HasFailure()) return;
  }
}

constexpr Fault kFaults[] = {
    {"leaks", leaks, false},
    {"counted_too_often", counted_too_often, false},
    {"uncounted", uncounted, false},
    {"uncounted_in_place", uncounted, true},
    {"counted_too_rarely", counted_too_rarely, false},
    {"no_counts", no_counts, false},
    {"no_counts_in_place", no_counts, true},
    {"no_blocks", no_blocks, false},
    {"no_blocks_in_place", no_blocks, true},
    {"broken_block", broken_block, false},
    {"block_behind_the_end", block_behind_the_end, false},
    {"no_table", no_table, false},
    {"flags", flags, false},
    {"preallocation", preallocation, false},
    {"snapshot_entry", snapshot_entry, false},
    {"marked_corrupt_and_dirty", marked_corrupt_and_dirty, false},
    {"all_at_once", all_at_once, false},
};

INSTANTIATE_TEST_SUITE_P(Faults, RepairCrash, ::testing::ValuesIn(kFaults),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace blockbed::qcow2::test
