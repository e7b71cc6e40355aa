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
template <Preallocation kMode>
Task<void> grow(Scene& s) {
  co_await s.truncate(s.image->length() + 80 * s.cluster(), kMode);
  co_await s.flush();
}

constexpr Operation plain(const char* name, Step run) {
  return {.name = name, .before = some_data, .run = run, .data_file = true};
}

constexpr Operation kOperations[] = {
    plain("OpenAndRead", read_some),
    plain("WriteAllocating", write_allocating),
    plain("WriteInPlace", write_in_place),
    plain("WriteCopying", write_copying),
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
    plain("Close", change_and_close),
};

class Qcow2DataFileFaults : public ::testing::TestWithParam<std::tuple<Operation, bool>> {
 protected:
  static Operation operation() {
    Operation result = std::get<0>(GetParam());
    result.data_file_raw = std::get<1>(GetParam());
    return result;
  }
};

TEST_P(Qcow2DataFileFaults, Everything) {
  fail_each(operation(), fault(sim::kSimEverything, EIO), End::kClosed);
}
TEST_P(Qcow2DataFileFaults, EverythingThenKilled) {
  fail_each(operation(), fault(sim::kSimEverything, EIO), End::kKilled);
}
TEST_P(Qcow2DataFileFaults, ChangesWithoutSpace) {
  fail_each(operation(), fault(sim::kSimChanges, ENOSPC), End::kKilled);
}

INSTANTIATE_TEST_SUITE_P(Every, Qcow2DataFileFaults,
                         ::testing::Combine(::testing::ValuesIn(kOperations), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) ? "Raw" : "");
                         });

}  // namespace
}  // namespace blockbed::qcow2::test
