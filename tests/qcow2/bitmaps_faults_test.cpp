// Persistent bitmaps while each request fails: stored, kept, removed, marked and loaded. Whatever
// fails, a bitmap on the disk is complete, or in use, or not there; never believed with bits
// missing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/stored_bitmaps_fixture.h"

namespace blockbed::qcow2::test {
namespace {

// What the disk holds after whatever was done to the bitmaps, which makes all of them out of date.
constexpr std::byte kWrittenAfterwards{9};

Bits run_of_ones(uint64_t size, uint64_t begin, uint64_t end) {
  PlainBits bits(bits_needed(size, kGranularity));
  bits.set(begin, end);
  return bits.bits();
}
Bits old_bits(uint64_t size) { return run_of_ones(size, 3, 2000); }
Bits new_bits(uint64_t size) { return run_of_ones(size, 1, 5555); }

BitmapToStore to_store(std::string name, const BitmapSource* bits) {
  BitmapToStore one;
  one.name = std::move(name);
  one.granularity_bits = kGranularity;
  one.bits = bits;
  return one;
}

// The disk begins with 1; "first" and "second" have the old bits.
Look prepared(uint64_t size) {
  Look look;
  look.data = std::byte{1};
  look.bitmaps["first"] = look.bitmaps["second"] = old_bits(size);
  return look;
}

Task<void> prepare(Env& env, CreateOptions create) {
  EXPECT_TRUE(co_await create_image(env, "disk", create, create.data_file_name));
  auto opened = co_await open_image(env, "disk", writable_options(), {}, create.data_file_name);
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  EXPECT_TRUE(co_await put(image, std::byte{1}));
  PlainBits bits(0);
  bits.bits() = old_bits(image.length());
  EXPECT_TRUE(co_await store_bitmaps(image.metadata(),
                                     {to_store("first", &bits), to_store("second", &bits)}));
  EXPECT_TRUE(co_await (*opened)->close());
}

// --- what is done, and the states it goes through

// Whether it was told to be done.
using Change = Task<bool> (*)(Image&);
// The first one is as prepared.
using States = std::vector<Look> (*)(uint64_t size);

struct Doing {
  const char* name;
  Change run;
  States states;
};

Task<bool> store(Image& image) {
  PlainBits bits(0);
  bits.bits() = new_bits(image.length());
  co_return (co_await store_bitmaps(image.metadata(),
                                    {to_store("second", &bits), to_store("third", &bits)}))
      .has_value();
}
std::vector<Look> stored(uint64_t size) {
  Look after = prepared(size);
  after.bitmaps["second"] = after.bitmaps["third"] = new_bits(size);
  return {prepared(size), after};
}

// The bits of "second" are not written again.
Task<bool> store_beside(Image& image) {
  PlainBits bits(0);
  bits.bits() = new_bits(image.length());
  co_return (co_await store_bitmaps(image.metadata(),
                                    {to_store("second", nullptr), to_store("third", &bits)}))
      .has_value();
}
std::vector<Look> stored_beside(uint64_t size) {
  Look after = prepared(size);
  after.bitmaps["third"] = new_bits(size);
  return {prepared(size), after};
}

Task<bool> remove(Image& image) {
  co_return (co_await remove_bitmap(image.metadata(), "second")).has_value();
}
std::vector<Look> removed(uint64_t size) {
  Look after = prepared(size);
  after.bitmaps.erase("second");
  return {prepared(size), after};
}

Task<bool> remove_all(Image& image) {
  const bool one = (co_await remove_bitmap(image.metadata(), "second")).has_value();
  const bool other = (co_await remove_bitmap(image.metadata(), "first")).has_value();
  co_return one&& other;
}
std::vector<Look> all_removed(uint64_t size) {
  std::vector<Look> states = removed(size);
  states.push_back(prepared(size));
  states.back().bitmaps.erase("first");
  states.push_back(states[1]);
  states.back().bitmaps.clear();
  return states;
}

Task<bool> mark_in_use(Image& image) {
  // Whoever is not there is a reason to change nobody.
  EXPECT_FALSE(co_await change_bitmap_flags(
      image.metadata(), {{"first", bitmap_flag::kInUse, 0}, {"third", bitmap_flag::kInUse, 0}}));
  co_return (co_await change_bitmap_flags(image.metadata(), {{"second", bitmap_flag::kInUse, 0}}))
      .has_value();
}
std::vector<Look> marked_in_use(uint64_t size) {
  Look after = prepared(size);
  after.bitmaps["second"].reset();
  return {prepared(size), after};
}

// What is written first is on the disk before the bitmap says that it stands for it.
Task<bool> write_and_mark_right(Image& image) {
  if (!co_await put(image, std::byte{2})) co_return false;
  // The next write says otherwise first, whatever becomes of this.
  image.end_writing();
  co_return (co_await change_bitmap_flags(image.metadata(), {{"second", 0, bitmap_flag::kInUse}}))
      .has_value();
}
std::vector<Look> marked_right(uint64_t size) {
  Look after = prepared(size);
  after.data = std::byte{2};
  after.bitmaps["first"].reset();
  return {prepared(size), after};
}

// All of them behind one barrier.
Task<bool> write_and_mark_all_right(Image& image) {
  if (!co_await put(image, std::byte{2})) co_return false;
  image.end_writing();
  co_return (co_await change_bitmap_flags(image.metadata(), {{"first", 0, bitmap_flag::kInUse},
                                                             {"second", 0, bitmap_flag::kInUse}}))
      .has_value();
}
std::vector<Look> all_marked_right(uint64_t size) {
  Look after = prepared(size);
  after.data = std::byte{2};
  return {prepared(size), after};
}

Task<bool> stop_recording(Image& image) {
  co_return (co_await change_bitmap_flags(image.metadata(), {{"second", 0, bitmap_flag::kAuto}}))
      .has_value();
}
std::vector<Look> as_prepared(uint64_t size) { return {prepared(size)}; }

constexpr Doing kDoings[] = {
    {"Store", store, stored},
    {"StoreBeside", store_beside, stored_beside},
    {"Remove", remove, removed},
    {"RemoveAll", remove_all, all_removed},
    {"MarkInUse", mark_in_use, marked_in_use},
    {"MarkRight", write_and_mark_right, marked_right},
    {"MarkAllRight", write_and_mark_all_right, all_marked_right},
    {"StopRecording", stop_recording, as_prepared},
};

// --- in which images

struct Kind {
  const char* name;
  uint64_t cluster;
  uint64_t clusters;
  bool data_file;
  // All of the header that changes is in one sector: no bitmap is lost.
  bool one_sector;
};

constexpr Kind kKinds[] = {
    {"HeaderInOneSector", 512, 6000, false, true},
    {"HeaderAcrossSectors", 8192, 4200, false, false},
    {"DataFile", 512, 6000, true, true},
};

CreateOptions options_of(const Kind& kind) {
  CreateOptions options = uneven_disk(kind.cluster, kind.clusters);
  options.data_file = kind.data_file;
  if (kind.data_file) options.data_file_name = "data";
  return options;
}

// --- and how it fails

struct Way {
  unsigned requests;
  uint64_t times;
  bool power_cut;
};

// One that fails a flush and no later one has no power cut, as in fault_loop_fixture.h.
constexpr Way kWays[] = {
    {sim::kSimEverything, 1, false},
    {sim::kSimWrite, 2, false},
    {sim::kSimWrite, 4, false},
    {sim::kSimFlush, 2, false},
    {sim::kSimFlush, 4, false},
    {sim::kSimWrite | sim::kSimFlush, 2, false},
    {sim::kSimWrite | sim::kSimFlush, 4, false},
    {sim::kSimChanges, 1, true},
    {sim::kSimChanges, 2, true},
    {sim::kSimFlush, UINT64_MAX, true},
};

// Whether something was told to have failed.
Task<bool> attempt(sim::SimEnv& env, CreateOptions create, Change change, bool write_afterwards,
                   bool power_cut) {
  auto opened = co_await open_image(env, "disk", writable_options(), {}, create.data_file_name);
  if (!opened) co_return true;
  Image& image = *(*opened)->image;
  bool failed = !co_await change(image);
  if (write_afterwards) failed |= !co_await put(image, kWrittenAfterwards);
  if (power_cut) {
    env.storage().power_off();
    co_await (*opened)->abandon();
  } else {
    failed |= !co_await (*opened)->close();
  }
  co_return failed;
}

void judge(const Look& look, const std::vector<Look>& states, bool always_there,
           const std::string& where) {
  EXPECT_TRUE(look.data == kWrittenAfterwards ||
              std::ranges::count(states, look.data, &Look::data) > 0)
      << where;
  for (const auto& [name, bits] : look.bitmaps) {
    const auto has = [&name](const Look& state) { return state.bitmaps.contains(name); };
    EXPECT_TRUE(std::ranges::any_of(states, has)) << where << ": " << name << " is there";
    if (!bits) continue;
    const auto right = [&](const Look& state) { return believable(look, name, state); };
    EXPECT_TRUE(std::ranges::any_of(states, right)) << where << ": " << name << " is believed";
  }
  if (!always_there) return;
  for (const auto& [name, bits] : states.front().bitmaps) {
    const auto has = [&name](const Look& state) { return state.bitmaps.contains(name); };
    if (!std::ranges::all_of(states, has)) continue;
    EXPECT_TRUE(look.bitmaps.contains(name)) << where << ": " << name << " is lost";
  }
}

void fail_each(const Doing& doing, const Kind& kind, bool write_afterwards, Way way) {
  const CreateOptions create = options_of(kind);
  const std::vector<Look> states = doing.states(create.size);
  sim::StorageImage files;
  {
    sim::SimEnv env(1);
    env.run(prepare(env, create));
    files = env.storage().image();
  }
  for (uint64_t skip = 0;; ++skip) {
    const std::string where =
        fmt::format("request {} of kind {:#x} fails, {} times{}", skip, way.requests, way.times,
                    way.power_cut ? ", power cut" : "");
    sim::SimEnv env(skip + 1);
    for (const auto& [path, content] : files) env.storage().put(path, content);
    sim::FaultRule rule;
    rule.requests = way.requests;
    rule.skip = skip;
    rule.times = way.times;
    const auto id = env.storage().add_fault(rule);
    const bool failed = env.run(attempt(env, create, doing.run, write_afterwards, way.power_cut));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    if (way.power_cut) {
      env.storage().power_on(env.storage().crash_image(sim::CrashSubset::seeded(skip)));
    }
    const auto look = env.run(look_at(env, where, create.data_file_name));
    if (!look) return;
    judge(*look, states, kind.one_sector, where);
    if (!failed && !write_afterwards) {
      EXPECT_TRUE(look->bitmaps == states.back().bitmaps) << where;
    }
    if (!hit) {
      EXPECT_FALSE(failed) << where;
      EXPECT_GT(skip, 0u) << where;
    }
    if (!hit || ::testing::Test::HasFailure()) return;
  }
}

class Qcow2BitmapsFaults : public ::testing::TestWithParam<std::tuple<Doing, Kind>> {};

TEST_P(Qcow2BitmapsFaults, EachRequest) {
  const auto& [doing, kind] = GetParam();
  for (const Way& way : kWays) {
    for (const bool write_afterwards : {false, true}) {
      SCOPED_TRACE(write_afterwards ? "the disk is written to afterwards" : "and nothing else");
      fail_each(doing, kind, write_afterwards, way);
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2BitmapsFaults,
                         ::testing::Combine(::testing::ValuesIn(kDoings),
                                            ::testing::ValuesIn(kKinds)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_" +
                                  std::get<1>(info.param).name;
                         });

// --- loading

// Who is told of no error has all bits of all bitmaps.
Task<void> load(Env& env, CreateOptions create, bool& failed) {
  auto opened = co_await open_image(env, "disk", MetadataOptions(), {}, create.data_file_name);
  failed = !opened;
  if (!opened) co_return;
  const Header& header = (*opened)->image->header();
  auto directory = co_await load_directory(*(*opened)->storage, header);
  failed |= !directory;
  if (directory) {
    EXPECT_EQ(directory->size(), 2u);
    for (const StoredBitmap& stored : *directory) {
      PlainBits bits(bits_needed(create.size, kGranularity));
      auto loaded = co_await load_bits(*(*opened)->storage, header, stored, bits);
      failed |= !loaded;
      if (loaded) EXPECT_TRUE(bits.bits() == old_bits(create.size)) << stored.name;
    }
  }
  co_await (*opened)->abandon();
}

TEST(Qcow2BitmapsLoadFaults, EachRequest) {
  for (const Kind& kind : kKinds) {
    const CreateOptions create = options_of(kind);
    sim::SimEnv env(1);
    env.run(prepare(env, create));
    uint64_t told = 0;
    for (bool hit = true; hit; ++told) {
      sim::FaultRule rule;
      rule.skip = told;
      const auto id = env.storage().add_fault(rule);
      bool failed = false;
      env.run(load(env, create, failed));
      hit = env.storage().hits(id) > 0;
      env.storage().remove_fault(id);
      EXPECT_EQ(failed, hit) << kind.name << ", request " << told;
      if (HasFailure()) return;
    }
    EXPECT_GT(told, 6u) << kind.name;
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
