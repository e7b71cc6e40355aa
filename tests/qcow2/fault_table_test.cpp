// Every operation of an image, with each of its requests failed in turn (fault_loop_fixture.h).
// Where guest data is in a file of its own: data_file_faults_test.cpp.
//
// A new operation is a line in kOperations: what the disk holds before, and what is done.
#include <gtest/gtest.h>

#include "tests/qcow2/fault_loop_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using namespace steps;

// Up to the end of what the first refcount blocks count.
Task<void> much_data(Scene& s) {
  for (uint64_t at = 0; at < 60; at += 4) {
    co_await s.write(at * s.cluster(), 4 * s.cluster(), static_cast<int>(1 + at));
  }
}

Task<void> write_compressed(Scene& s) {
  co_await s.compressed(50 * s.cluster(), 5 * s.cluster(), 15);
  co_await s.compressed(24 * s.cluster(), s.cluster(), 16);
  co_await s.flush();
}

Task<void> grow_refcounts(Scene& s) {
  // More clusters than the refcount table counts.
  for (uint64_t at = 60; at < 156; at += 12) {
    co_await s.write(at * s.cluster(), 12 * s.cluster(), static_cast<int>(at));
  }
  co_await s.flush();
}

template <Preallocation kMode>
Task<void> discard_and_grow(Scene& s) {
  co_await s.discard(0, 4 * s.cluster());
  co_await s.flush();
  co_await grow<kMode>(s);
}

Task<void> grow_l1(Scene& s) {
  co_await s.truncate(s.image->length() + 6000 * s.cluster());
  co_await s.flush();
}

// 4096 clusters are what the first refcount table counts when a count has 64 bits.
Task<void> fill_refcount_table(Scene& s) { co_await s.write(0, 3940 * s.cluster(), 1); }

Task<void> grow_refcount_table(Scene& s) {
  for (uint64_t at = 3940; at < 4180; at += 60) {
    co_await s.write(at * s.cluster(), 60 * s.cluster(), static_cast<int>(at & 0xff));
    co_await s.flush();
  }
}

Task<void> grow_l1_and_write(Scene& s) {
  const uint64_t end = s.image->length();
  co_await s.truncate(end + 80 * s.cluster());
  // L2 tables that only the L1 table in use refers to.
  co_await s.write(130 * s.cluster(), 2 * s.cluster(), 19);
  if (s.image->length() > end) co_await s.write(end + 70 * s.cluster(), 2 * s.cluster(), 20);
  co_await s.flush();
}

// --- snapshots; what is written in between finds flags and counts as they must be

Task<void> make_snapshot(Scene& s) {
  Snapshot snapshot;
  snapshot.name = "another";
  s.account(co_await s.image->create_snapshot(snapshot));
  co_await s.write(21 * s.cluster(), 3 * s.cluster(), 21);
  co_await s.flush();
}
Task<void> apply_snapshot(Scene& s) {
  const auto done = co_await s.image->apply_snapshot(0);
  s.account(done);
  // An error may come when it is done.
  s.model = done ? *s.snapshot : s.model.only_where_equal(*s.snapshot);
  co_await s.write(2 * s.cluster(), 3 * s.cluster(), 22);
  co_await s.flush();
}
// The first one stays.
Task<void> delete_snapshots(Scene& s) {
  while (s.image->snapshots().size() > 1) {
    const auto done = co_await s.image->delete_snapshot(s.image->snapshots().size() - 1);
    s.account(done);
    if (!done) break;
  }
  co_await s.write(s.cluster(), 2 * s.cluster(), 23);
  co_await s.flush();
}
Task<void> some_written_since(Scene& s) {
  co_await shared_data(s);
  co_await s.write(2 * s.cluster(), 4 * s.cluster(), 24);
  co_await s.zero(21 * s.cluster(), s.cluster(), true);
}
Task<void> two_snapshots(Scene& s) {
  co_await some_written_since(s);
  Snapshot snapshot;
  snapshot.name = "second";
  s.account(co_await s.image->create_snapshot(snapshot));
  co_await s.write(s.cluster(), 2 * s.cluster(), 25);
}

constexpr Operation kOperations[] = {
    {"OpenAndRead", some_data, read_it},
    {"WriteAllocating", some_data, write_allocating},
    {"WriteInPlace", some_data, write_in_place},
    {"WriteCopying", some_data, write_copying},
    {"WriteCompressed", some_data, write_compressed},
    {"ZeroKeeping", some_data, zero_keeping},
    {"ZeroUnmapping", some_data, zero_unmapping},
    {"ZeroParts", some_data, zero_parts},
    {"Discard", some_data, discard},
    {"DiscardAndReuse", some_data, discard_and_reuse},
    {"RefcountBlocks", much_data, grow_refcounts},
    {.name = "RefcountTable", .before = much_data, .run = grow_refcounts, .refcount_bits = 64},
    {"ResizeUp", some_data, resize_up},
    {"L1Table", some_data, grow_l1},
    {"GrowMetadata", some_data, grow<Preallocation::kMetadata>},
    {"GrowFalloc", some_data, grow<Preallocation::kFalloc>},
    {"GrowFull", some_data, grow<Preallocation::kFull>},
    // Clusters that were freed, and hold what they held, are used first.
    {"GrowReusing", some_data, discard_and_grow<Preallocation::kMetadata>},
    {.name = "Version2GrowReusing",
     .before = some_data,
     .run = discard_and_grow<Preallocation::kFull>,
     .version = 2},
    {.name = "LazyGrow", .before = some_data, .run = grow<Preallocation::kFalloc>, .lazy = true},
    {.name = "SubclusterGrow",
     .before = some_data,
     .run = grow<Preallocation::kFull>,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {"ResizeDown", some_data, resize_down},
    {"Empty", some_data, empty},
    {"Close", some_data, change_and_close},
    {.name = "LazyWrite", .before = some_data, .run = write_allocating, .lazy = true},
    {.name = "LazyClose", .before = some_data, .run = change_and_close, .lazy = true},
    {.name = "Version2Write", .before = some_data, .run = write_allocating, .version = 2},
    {.name = "Version2Discard", .before = some_data, .run = discard, .version = 2},
    {.name = "Version2Zero", .before = some_data, .run = zero_keeping, .version = 2},
    {.name = "Version2ZeroParts", .before = some_data, .run = zero_parts, .version = 2},
    {.name = "SubclusterWrite",
     .before = some_data,
     .run = write_copying,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {.name = "SubclusterZero",
     .before = some_data,
     .run = zero_parts,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {.name = "LargeClusters",
     .before = nothing,
     .run = write_copying,
     .cluster = 65536,
     .clusters = 48},
    {"SharedWrite", shared_data, write_copying},
    {"SharedWriteInPlace", shared_data, write_in_place},
    {"SharedDiscard", shared_data, discard},
    {"SnapshotMade", some_written_since, make_snapshot},
    {"SnapshotApplied", some_written_since, apply_snapshot},
    {"SnapshotDeleted", two_snapshots, delete_snapshots},
    {.name = "LazySnapshotMade", .before = some_written_since, .run = make_snapshot, .lazy = true},
    {.name = "LazySnapshotDeleted", .before = two_snapshots, .run = delete_snapshots, .lazy = true},
    {.name = "Version2SnapshotApplied",
     .before = some_written_since,
     .run = apply_snapshot,
     .version = 2},
    {.name = "SubclusterSnapshotDeleted",
     .before = two_snapshots,
     .run = delete_snapshots,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
};

// The disk begins with what shows through.
constexpr uint64_t kBase = 40 * 512 + 256;

constexpr Operation over_base(const char* name, Step run, uint32_t version = 3) {
  return {.name = name, .before = some_data, .run = run, .version = version, .backing = kBase};
}

constexpr Operation kOverBase[] = {
    over_base("Read", read_it),
    over_base("WriteAllocating", write_allocating),
    over_base("WriteCopying", write_copying),
    over_base("WriteCompressed", write_compressed),
    over_base("Copy", copy_in),
    over_base("ZeroUnmapping", zero_unmapping),
    over_base("ZeroParts", zero_parts),
    over_base("Discard", discard),
    over_base("ResizeDown", resize_down),
    over_base("Version2Write", write_copying, 2),
    {.name = "SubclusterWrite",
     .before = some_data,
     .run = write_copying,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80,
     .backing = 40 * 16384 + 1024},
    {.name = "SubclusterZero",
     .before = some_data,
     .run = zero_parts,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80,
     .backing = 20 * 16384 + 1024},
    {.name = "SubclusterGrow",
     .before = some_data,
     .run = grow<Preallocation::kMetadata>,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80,
     .backing = 79 * 16384 + 1024},
};

constexpr Operation kCopies[] = {
    {"Plain", some_data, copy_in},
    {"Shared", shared_data, copy_in},
    {.name = "Version2", .before = some_data, .run = copy_in, .version = 2},
    {.name = "Lazy", .before = some_data, .run = copy_in, .lazy = true},
    {.name = "Subclusters",
     .before = some_data,
     .run = copy_in,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {.name = "OverBase", .before = some_data, .run = copy_in, .backing = kBase},
};

// Where one write of the header puts other tables in the place of the present ones.
constexpr Operation kSwitches[] = {
    {.name = "RefcountTable",
     .before = fill_refcount_table,
     .run = grow_refcount_table,
     .refcount_bits = 64,
     .clusters = 4200},
    {"L1Table", some_data, grow_l1_and_write},
    {"ResizeUp", some_data, resize_up},
    {"ResizeDown", some_data, resize_down},
};

class Qcow2FaultTable : public ::testing::TestWithParam<OperationInWay> {};

TEST_P(Qcow2FaultTable, EachRequest) {
  const auto& [operation, way] = GetParam();
  fail_each(operation, way);
}

INSTANTIATE_TEST_SUITE_P(All, Qcow2FaultTable, in_every_way(kOperations), name_of);
INSTANTIATE_TEST_SUITE_P(OverBase, Qcow2FaultTable, in_every_way(kOverBase), name_of);
INSTANTIATE_TEST_SUITE_P(Copy, Qcow2FaultTable, in_every_way(kCopies), name_of);

// Each copy in turn, and all from one on: what is told of those before holds.
TEST(Qcow2CopyFaults, HostRefuses) {
  for (const Operation& operation : kCopies) {
    for (const uint64_t times : {uint64_t{1}, UINT64_MAX}) {
      for (const End end : {End::kGivenUp, End::kPowerCut}) {
        EXPECT_GE(fail_each(operation, Way{"", sim::kSimCopy, ENOTSUP, end, times}), 3u);
        if (HasFailure()) return;
      }
    }
  }
}

// The write of the header fails, and may have changed it all the same; or the flush behind it does.
// The second time, what puts the header right again fails too. All that is told to be flushed
// afterwards is found by the header that the disk has.
class Qcow2HeaderFaults : public ::testing::TestWithParam<Operation> {};

TEST_P(Qcow2HeaderFaults, ThenKilled) {
  sim::FaultRule writes;
  writes.requests = sim::kSimWrite;
  writes.length = kSectorSize;
  sim::FaultRule flushes;
  flushes.requests = sim::kSimFlush;
  for (sim::FaultRule rule : {writes, flushes}) {
    for (rule.times = 1; rule.times <= 2; ++rule.times) {
      for (uint64_t seed = 1; seed <= 2; ++seed) {
        fail_each(GetParam(), rule, End::kTriedAgainThenKilled, seed * 100);
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Qcow2HeaderFaults, ::testing::ValuesIn(kSwitches),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace blockbed::qcow2::test
