// Images that are created, with each request to their files failed in turn, until none is left to
// fail: an error is told, and who tries again over what is there has the image that was wanted.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>

#include "block/formats/qcow2/check.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

struct Wanted {
  const char* name;
  uint64_t cluster = 512;
  uint64_t clusters = 70;
  uint32_t version = 3;
  uint32_t refcount_bits = 16;
  bool extended_l2 = false;
  bool lazy = false;
  bool backing = false;
  bool data_file = false;
  bool data_file_raw = false;
};

constexpr Wanted kWanted[] = {
    {"Plain"},
    {.name = "WideCounts", .refcount_bits = 64},
    {.name = "Version2", .version = 2},
    {.name = "Lazy", .lazy = true},
    {.name = "EndsWithinACluster", .cluster = 4096, .clusters = 13},
    {.name = "Subclusters", .cluster = 16384, .clusters = 9, .extended_l2 = true},
    {.name = "SubclustersOverBase",
     .cluster = 16384,
     .clusters = 9,
     .extended_l2 = true,
     .backing = true},
    {.name = "DataFile", .data_file = true},
    {.name = "RawDataFile", .data_file = true, .data_file_raw = true},
};

constexpr Preallocation kModes[] = {Preallocation::kOff, Preallocation::kMetadata,
                                    Preallocation::kFalloc, Preallocation::kFull};

CreateOptions options_of(const Wanted& wanted, Preallocation mode) {
  CreateOptions options;
  options.cluster_size = wanted.cluster;
  options.size = wanted.clusters * wanted.cluster + 512;
  options.version = wanted.version;
  options.refcount_bits = wanted.refcount_bits;
  options.extended_l2 = wanted.extended_l2;
  options.lazy_refcounts = wanted.lazy;
  options.preallocation = mode;
  if (wanted.backing) {
    options.backing_file = "base";
    options.backing_format = "raw";
  }
  options.data_file = wanted.data_file;
  if (wanted.data_file) options.data_file_name = "data";
  options.data_file_raw = wanted.data_file_raw;
  return options;
}

// Nothing of what the files held shows, and the image is one to write to.
Task<void> judge(sim::SimEnv& env, CreateOptions options, std::string where) {
  const Bytes base(options.backing_file ? options.size : 0, std::byte{0xbb});
  auto opened = co_await open_image(env, "disk", writable_options(), base, options.data_file_name);
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  EXPECT_EQ(image.length(), options.size) << where;
  EXPECT_EQ(image.header().backing_name, options.backing_file.value_or("")) << where;
  auto report = co_await check_image(*(*opened)->storage, image.header());
  EXPECT_TRUE(report && report->clean()) << where << (report ? report->describe() : "");
  Bytes expected = base.empty() ? Bytes(options.size) : base;
  Bytes disk(options.size, std::byte{1});
  EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size()))) << where;
  EXPECT_TRUE(same_bytes(disk, expected)) << where;
  for (uint64_t at = 256; at < options.size; at += options.size / 5 / 512 * 512) {
    std::memset(expected.data() + at, 0x5a, 256);
    EXPECT_TRUE(co_await image.write(at, IoVector(expected.data() + at, 256))) << where;
  }
  EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size()))) << where;
  EXPECT_TRUE(same_bytes(disk, expected)) << where << ", written to";
  EXPECT_TRUE(co_await (*opened)->close()) << where;
  co_await expect_sound(env, "disk", true);
}

struct Fault {
  unsigned requests;
  int error;
};
constexpr Fault kFaults[] = {{sim::kSimEverything, EIO}, {sim::kSimChanges, ENOSPC}};

void fail_each(const CreateOptions& options, const sim::StorageImage& held, Fault fault) {
  auto make = [&](sim::SimEnv& env) {
    for (const auto& [path, content] : held) env.storage().put(path, content);
    return env.run(create_image(env, "disk", options, options.data_file_name, !held.empty()));
  };
  sim::StorageImage without_fault;
  {
    sim::SimEnv env(1);
    ASSERT_TRUE(make(env));
    without_fault = env.storage().image();
  }
  for (uint64_t skip = 0;; ++skip) {
    const std::string where =
        fmt::format("request {} of kind {:#x} fails with {} ", skip, fault.requests, fault.error);
    sim::SimEnv env(skip + 1);
    env.storage().set_latency(sim::SimLatency::none());
    sim::FaultRule rule;
    rule.requests = fault.requests;
    rule.error = fault.error;
    rule.skip = skip;
    const auto id = env.storage().add_fault(rule);
    const bool made = make(env).has_value();
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    if (made) {
      // What was told to be done is, also after a power cut.
      env.storage().power_off();
      env.storage().power_on(env.storage().crash_image(sim::CrashSubset::seeded(skip)));
      EXPECT_TRUE(env.storage().image() == without_fault) << where;
    } else {
      EXPECT_TRUE(hit) << where;
      // Over what that left.
      const auto again = env.run(create_image(env, "disk", options, options.data_file_name, true));
      EXPECT_TRUE(again) << where << (again ? "" : again.error().description);
    }
    if (!::testing::Test::HasFailure()) env.run(judge(env, options, where));
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << where;
      return;
    }
    if (!hit) return;
  }
}

class Qcow2CreateFaults : public ::testing::TestWithParam<std::tuple<Wanted, Preallocation>> {};

TEST_P(Qcow2CreateFaults, EachRequest) {
  const auto& [wanted, mode] = GetParam();
  const CreateOptions options = options_of(wanted, mode);
  for (const bool over : {false, true}) {
    SCOPED_TRACE(over ? "over something" : "in new files");
    sim::StorageImage held;
    if (over) {
      const Bytes bytes(40 * wanted.cluster + 256, std::byte{0xee});
      held["disk"].resize(bytes.size());
      held["disk"].write(0, bytes);
    }
    for (const Fault& fault : kFaults) {
      fail_each(options, held, fault);
      if (HasFailure()) return;
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Wanted, Preallocation>>& info) {
  constexpr const char* kNames[] = {"", "Metadata", "Falloc", "Full"};
  return std::string(std::get<0>(info.param).name) +
         kNames[static_cast<std::size_t>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(All, Qcow2CreateFaults,
                         ::testing::Combine(::testing::ValuesIn(kWanted),
                                            ::testing::ValuesIn(kModes)),
                         name_of);

}  // namespace
}  // namespace blockbed::qcow2::test
