// Operations of images with an external data file, with each request to either of the two files
// failed in turn (fault_loop_fixture.h). A raw data file is the disk for those who read it alone,
// whatever had failed before.
#include <gtest/gtest.h>

#include "tests/qcow2/fault_loop_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using namespace steps;

Task<void> read_some(Scene& s) {
  co_await s.read_all("during the operation");
  co_await s.write(0, s.cluster(), 5);
  co_await s.read_all("after a write");
  co_await s.flush();
}

// What a discard or zeroes are still due for is written again.
Task<void> same_places(Scene& s) {
  co_await s.discard(0, 4 * s.cluster());
  co_await s.write(s.cluster(), s.cluster(), 21);
  co_await s.zero(70 * s.cluster(), 3 * s.cluster(), true);
  co_await s.write(71 * s.cluster() + s.cluster() / 2, s.cluster() / 2, 22);
  co_await s.flush();
  co_await s.zero(s.cluster(), s.cluster(), false);
  co_await s.flush();
}

// The disk shrinks, and grows over what it held.
Task<void> down_and_up(Scene& s) {
  co_await s.truncate(71 * s.cluster());
  co_await s.truncate(160 * s.cluster());
  co_await s.flush();
}
template <Preallocation kMode>
Task<void> down_and_up_preallocated(Scene& s) {
  co_await s.truncate(71 * s.cluster());
  co_await s.truncate(160 * s.cluster(), kMode);
  co_await s.flush();
}
// What the data file has behind the disk is no part of that.
Task<void> with_leftovers(Scene& s) {
  co_await some_data(s);
  FileOpenOptions how;
  how.write = true;
  auto file = co_await s.env.open_file("data", how);
  EXPECT_TRUE(file);
  if (!file) co_return;
  Bytes bytes(90 * s.cluster(), std::byte{0xee});
  EXPECT_TRUE(co_await (*file)->write(s.image->length(), IoVector(bytes.data(), bytes.size())));
  (void)co_await (*file)->close();
}
constexpr Operation plain(const char* name, Step run) {
  return {.name = name, .before = some_data, .run = run, .data_file = true};
}

constexpr Operation kOperations[] = {
    plain("OpenAndRead", read_some),
    plain("WriteAllocating", write_allocating),
    plain("WriteInPlace", write_in_place),
    plain("WriteCopying", write_copying),
    plain("CopyIn", copy_in),
    plain("ZeroKeeping", zero_keeping),
    plain("ZeroUnmapping", zero_unmapping),
    plain("ZeroParts", zero_parts),
    plain("Discard", discard),
    plain("SamePlaces", same_places),
    plain("ResizeUp", resize_up),
    plain("ResizeDown", resize_down),
    plain("DownAndUp", down_and_up),
    plain("DownAndUpWithMetadata", down_and_up_preallocated<Preallocation::kMetadata>),
    plain("GrowFalloc", grow<Preallocation::kFalloc>),
    plain("GrowFull", grow<Preallocation::kFull>),
    {.name = "GrowOverLeftovers",
     .before = with_leftovers,
     .run = grow<Preallocation::kMetadata>,
     .data_file = true},
    plain("Empty", empty),
    plain("Close", change_and_close),
    {.name = "LazyWrite",
     .before = some_data,
     .run = write_allocating,
     .lazy = true,
     .data_file = true},
    {.name = "SubclusterWrite",
     .before = some_data,
     .run = write_copying,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80,
     .data_file = true},
    {.name = "SubclusterZero",
     .before = some_data,
     .run = zero_parts,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80,
     .data_file = true},
};

class Qcow2DataFileFaults : public ::testing::TestWithParam<OperationInWay> {};

TEST_P(Qcow2DataFileFaults, EachRequest) {
  auto [operation, way] = GetParam();
  for (const bool raw : {false, true}) {
    SCOPED_TRACE(raw ? "raw" : "not raw");
    operation.data_file_raw = raw;
    fail_each(operation, way);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Qcow2DataFileFaults, in_every_way(kOperations), name_of);

}  // namespace
}  // namespace blockbed::qcow2::test
