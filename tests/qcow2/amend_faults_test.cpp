// Images that are amended, or get the name of another backing file, with each request failed in
// turn (fault_loop_fixture.h): some of what was asked may be done then, and the header says what
// is.
#include <gtest/gtest.h>

#include "block/formats/qcow2/amend.h"
#include "tests/qcow2/fault_loop_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using namespace steps;

// Data, compressed clusters, and zeroes of both kinds: with a place and without one.
Task<void> with_zeroes(Scene& s) {
  co_await some_data(s);
  co_await s.zero(s.cluster(), 2 * s.cluster(), false);
  co_await s.zero(90 * s.cluster(), 3 * s.cluster(), true);
}
Task<void> with_shared_zeroes(Scene& s) {
  co_await with_zeroes(s);
  co_await shared_data(s);
  co_await s.zero(2 * s.cluster(), 2 * s.cluster(), false);
  co_await s.zero(91 * s.cluster(), 4 * s.cluster(), true);
}

// No cluster is referred to more than once.
Task<void> no_compressed(Scene& s) {
  co_await s.write(0, 4 * s.cluster(), 1);
  co_await s.zero(s.cluster(), 2 * s.cluster(), false);
  co_await s.write(70 * s.cluster(), 3 * s.cluster(), 2);
}

// Whoever writes afterwards finds counts and flags as they must be. When it failed, the image may
// only be closed.
Task<void> amended(Scene& s, AmendOptions options) {
  const auto done = co_await amend(*s.image, std::move(options));
  s.account(done);
  if (!done) co_return;
  co_await s.write(30 * s.cluster(), 3 * s.cluster(), 10);
  co_await s.discard(71 * s.cluster(), s.cluster());
  co_await s.flush();
}

template <uint64_t kBits>
Task<void> width(Scene& s) {
  AmendOptions options;
  options.refcount_bits = kBits;
  return amended(s, options);
}
template <uint32_t kOrder>
bool has_width(const Header& header, bool done) {
  return header.refcount_order == kOrder || (!done && header.refcount_order == 4);
}

template <uint32_t kVersion>
Task<void> version(Scene& s) {
  AmendOptions options;
  options.version = kVersion;
  return amended(s, options);
}
// The image is marked dirty when that begins.
Task<void> write_and_older_version(Scene& s) {
  co_await s.write(s.cluster(), s.cluster(), 12);
  co_await s.write(130 * s.cluster(), s.cluster(), 13);
  co_await s.flush();
  co_await version<2>(s);
}
bool is_older_over_base(const Header& header, bool done) {
  if (header.backing_name != "base" || header.backing_format != "raw") return false;
  return header.version == 2 || (!done && header.version == 3);
}
template <uint32_t kVersion>
bool has_version(const Header& header, bool done) {
  return header.version == kVersion || (!done && header.version == 5 - kVersion);
}

Task<void> all_of_the_newer(Scene& s) {
  AmendOptions options;
  options.version = 3;
  options.refcount_bits = 32;
  options.lazy_refcounts = true;
  options.size = s.model.size() + 4096;
  const auto done = co_await amend(*s.image, options);
  s.account(done);
  s.length_known = done.has_value();
  if (done) s.model.resize(*options.size);
  co_await s.flush();
}
bool has_all_of_the_newer(const Header& header, bool done) {
  // One after the other, so what comes later is not there without what comes before.
  const bool newer = header.version == 3 && (header.compatible_features & 1) != 0;
  if (done) return newer && header.refcount_order == 5;
  return newer || (header.version == 2 && header.refcount_order == 4);
}

template <bool kOn>
Task<void> lazy(Scene& s) {
  AmendOptions options;
  options.lazy_refcounts = kOn;
  return amended(s, options);
}
template <bool kOn>
bool has_lazy(const Header& header, bool done) {
  return !done || ((header.compatible_features & compatible::kLazyRefcounts) != 0) == kOn;
}

Task<void> other_data_file(Scene& s) {
  AmendOptions options;
  options.data_file = "elsewhere";
  options.data_file_raw = false;
  return amended(s, options);
}
bool has_other_data_file(const Header& header, bool done) {
  if (header.data_file_name == "elsewhere") return !header.raw_external_data();
  return !done && header.data_file_name == "data" && header.raw_external_data();
}

constexpr const char* kOtherBase = "another base of a longer name";

Task<void> other_base(Scene& s) {
  auto done = co_await s.image->begin_writing();
  if (done) {
    Metadata& metadata = s.image->metadata();
    MutexGuard lock = co_await metadata.lock();
    Header header = metadata.header();
    header.backing_name = kOtherBase;
    header.backing_format = "qcow2";
    done = co_await metadata.rewrite_header(std::move(header));
  }
  s.account(done);
  co_await s.write(30 * s.cluster(), 3 * s.cluster(), 10);
  co_await s.flush();
}
bool has_other_base(const Header& header, bool done) {
  return (header.backing_name == kOtherBase && header.backing_format == "qcow2") ||
         (!done && header.backing_name == "base" && header.backing_format == "raw");
}

constexpr Operation kOperations[] = {
    {.name = "WiderCounts", .before = shared_data, .run = width<64>, .header = has_width<6>},
    {.name = "NarrowerCounts", .before = shared_data, .run = width<8>, .header = has_width<3>},
    {.name = "CountsOfOneBit", .before = no_compressed, .run = width<1>, .header = has_width<0>},
    {.name = "LazyCounts",
     .before = some_data,
     .run = width<8>,
     .lazy = true,
     .header = has_width<3>},
    {.name = "CountsBesideADataFile",
     .before = some_data,
     .run = width<64>,
     .data_file = true,
     .header = has_width<6>},
    {.name = "NewerVersion",
     .before = shared_data,
     .run = version<3>,
     .version = 2,
     .header = has_version<3>},
    {.name = "AllOfTheNewerVersion",
     .before = some_data,
     .run = all_of_the_newer,
     .version = 2,
     .header = has_all_of_the_newer},
    {.name = "OlderVersion", .before = with_zeroes, .run = version<2>, .header = has_version<2>},
    {.name = "OlderVersionShared",
     .before = with_shared_zeroes,
     .run = version<2>,
     .header = has_version<2>},
    {.name = "OlderVersionOverBase",
     .before = with_zeroes,
     .run = version<2>,
     .backing = 100 * 512 + 256,
     .header = has_version<2>},
    {.name = "OlderVersionOfADirtyImage",
     .before = with_zeroes,
     .run = write_and_older_version,
     .lazy = true,
     .backing = 100 * 512 + 256,
     .header = is_older_over_base},
    {.name = "LazyOn", .before = some_data, .run = lazy<true>, .header = has_lazy<true>},
    {.name = "LazyOff",
     .before = some_data,
     .run = lazy<false>,
     .lazy = true,
     .header = has_lazy<false>},
    {.name = "OtherDataFile",
     .before = some_data,
     .run = other_data_file,
     .data_file = true,
     .data_file_raw = true,
     .header = has_other_data_file},
    {.name = "OtherBase",
     .before = some_data,
     .run = other_base,
     .backing = 40 * 512 + 256,
     .header = has_other_base},
    {.name = "OtherBaseLargeClusters",
     .before = some_data,
     .run = other_base,
     .cluster = 4096,
     .backing = 40 * 4096 + 256,
     .header = has_other_base},
};

class Qcow2AmendFaults : public ::testing::TestWithParam<OperationInWay> {};

TEST_P(Qcow2AmendFaults, EachRequest) {
  auto [operation, way] = GetParam();
  operation.only_once = true;
  EXPECT_GE(fail_each(operation, way), 3u);
}

INSTANTIATE_TEST_SUITE_P(All, Qcow2AmendFaults, in_every_way(kOperations), name_of);

}  // namespace
}  // namespace blockbed::qcow2::test
