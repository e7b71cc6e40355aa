// Persistent bitmaps while the power is cut at every operation of the storage, and while each
// request fails: a bitmap on the disk is complete, or in use, or not there; never believed with
// bits missing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "block/formats/qcow2/check.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;
using Bits = std::vector<uint8_t>;

constexpr uint8_t kGranularity = 9;

struct Moment {
  uint64_t operation = 0;
  // What the first sector of the disk holds.
  std::byte data{};
  // Those that are there; the bits of those that may be believed.
  std::map<std::string, std::optional<Bits>> bitmaps;
};

struct Look {
  std::byte data{};
  std::map<std::string, std::optional<Bits>> bitmaps;
};

// What the next one to open the image believes.
Task<std::optional<Look>> look_at(Env& env, std::string where, std::string data_path = {}) {
  Look look;
  auto opened = co_await open_image(env, "disk", MetadataOptions(), {}, data_path);
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return std::nullopt;
  Image& image = *(*opened)->image;
  auto report = co_await check_image(*(*opened)->storage, image.header());
  EXPECT_TRUE(report) << where;
  if (report) EXPECT_EQ(report->corruptions, 0u) << where << report->describe();
  Bytes sector(512);
  EXPECT_TRUE(co_await image.read(0, IoVector(sector.data(), sector.size()))) << where;
  look.data = sector[0];
  auto directory = co_await load_directory(*(*opened)->storage, image.header());
  EXPECT_TRUE(directory) << where << (directory ? "" : directory.error().description);
  if (directory) {
    for (const StoredBitmap& b : *directory) {
      look.bitmaps[b.name] = std::nullopt;
      if (b.in_use()) continue;
      PlainBits bits(bits_needed(image.length(), b.granularity_bits));
      auto loaded = co_await load_bits(*(*opened)->storage, image.header(), b, bits);
      EXPECT_TRUE(loaded) << where << (loaded ? "" : loaded.error().description);
      EXPECT_FALSE(bits.beyond) << where;
      look.bitmaps[b.name] = bits.bits();
    }
  }
  co_await (*opened)->abandon();
  co_return look;
}

bool believable(const Look& look, const std::string& name, const Moment& moment) {
  const auto at = moment.bitmaps.find(name);
  return look.data == moment.data && at != moment.bitmaps.end() && at->second &&
         *at->second == *look.bitmaps.at(name);
}

void judge(const Look& look, const Moment& old_state, const Moment& new_state, bool always_there,
           const std::string& where) {
  EXPECT_TRUE(look.data == old_state.data || look.data == new_state.data) << where;
  for (const auto& [name, bits] : look.bitmaps) {
    EXPECT_TRUE(old_state.bitmaps.contains(name) || new_state.bitmaps.contains(name)) << where;
    if (!bits) continue;
    EXPECT_TRUE(believable(look, name, old_state) || believable(look, name, new_state))
        << where << ": " << name << " is believed";
  }
  if (!always_there) return;
  for (const auto& [name, bits] : old_state.bitmaps) {
    if (!new_state.bitmaps.contains(name)) continue;
    EXPECT_TRUE(look.bitmaps.contains(name)) << where << ": " << name << " is lost";
  }
}

Task<bool> put(Image& image, std::byte value) {
  Bytes data(512, value);
  co_return (co_await image.write(0, IoVector(data.data(), data.size()))).has_value();
}

PlainBits random_bits(sim::SimRandom& r, uint64_t size) {
  PlainBits bits(size);
  const uint64_t runs = r.next() % 5;
  for (uint64_t i = 0; i < runs; ++i) {
    const uint64_t begin = r.next() % size;
    bits.set(begin, begin + r.next() % size);
  }
  return bits;
}

class BitmapRun {
 public:
  BitmapRun(sim::SimEnv& env, CreateOptions create, int steps)
      : env_(env), create_(std::move(create)), steps_(steps) {}

  Task<void> prepare() {
    EXPECT_TRUE(co_await create_image(env_, "disk", create_, create_.data_file_name));
    moments_.emplace_back();
  }

  Task<void> work() {
    for (int i = 0; i < steps_ && !::testing::Test::HasFailure(); ++i) {
      auto opened =
          co_await open_image(env_, "disk", writable_options(), {}, create_.data_file_name);
      EXPECT_TRUE(opened);
      if (!opened) co_return;
      co_await step(*(*opened)->image, static_cast<std::byte>(i + 1));
      EXPECT_TRUE(co_await (*opened)->close());
      // What closing writes is no change of any bitmap.
      end(moments_.back());
    }
  }

  const std::vector<Moment>& moments() const { return moments_; }

 private:
  void end(Moment& moment) { moment.operation = env_.storage().operations(); }
  Moment& begin() {
    moments_.push_back(moments_.back());
    return moments_.back();
  }

  Task<void> step(Image& image, std::byte value) {
    sim::SimRandom& r = env_.chance();
    const uint64_t size = bits_needed(image.length(), kGranularity);
    const std::string name = fmt::format("bitmap{}", r.next() % 4);
    const bool written = r.next() % 2 == 0;
    if (written) {
      Moment& next = begin();
      for (auto& [known, bits] : next.bitmaps) bits.reset();
      next.data = value;
      EXPECT_TRUE(co_await put(image, value));
      // Durable, so that no later moment has the old data.
      EXPECT_TRUE(co_await image.flush());
      EXPECT_TRUE(co_await image.metadata().file().flush());
      EXPECT_TRUE(co_await image.metadata().data().flush());
      end(next);
    }
    switch (r.next() % 5) {
      case 0: {
        Moment& next = begin();
        next.bitmaps.erase(name);
        auto removed = co_await remove_bitmap(image.metadata(), name);
        EXPECT_TRUE(removed) << removed.error().description;
        end(next);
        break;
      }
      case 1: {
        if (!moments_.back().bitmaps.contains(name)) break;
        Moment& next = begin();
        next.bitmaps[name].reset();
        EXPECT_TRUE(co_await change_bitmap_flags(image.metadata(), name, bitmap_flag::kInUse, 0));
        end(next);
        break;
      }
      default: {
        Moment& next = begin();
        // What was written and not flushed is on the disk before a bitmap that stands for it.
        if (!written && r.next() % 2 == 0) {
          for (auto& [known, bits] : next.bitmaps) bits.reset();
          next.data = value;
          EXPECT_TRUE(co_await put(image, value));
        }
        std::vector<PlainBits> contents;
        std::vector<std::string> names;
        for (int b = 0; b < 4; ++b) {
          if (r.next() % 3 == 0) continue;
          names.push_back(fmt::format("bitmap{}", b));
          contents.push_back(random_bits(r, size));
        }
        std::vector<BitmapToStore> store;
        for (std::size_t b = 0; b < names.size(); ++b) {
          BitmapToStore one;
          one.name = names[b];
          one.granularity_bits = kGranularity;
          one.bits = &contents[b];
          store.push_back(one);
          next.bitmaps[names[b]] = contents[b].bits();
        }
        auto stored = co_await store_bitmaps(image.metadata(), std::move(store));
        EXPECT_TRUE(stored) << stored.error().description;
        end(next);
      }
    }
  }

  sim::SimEnv& env_;
  CreateOptions create_;
  int steps_;
  std::vector<Moment> moments_;
};

void judge_crash(const sim::StorageImage& left, const std::vector<Moment>& moments, uint64_t point,
                 bool always_there, const std::string& where, const std::string& data_path) {
  std::size_t after = 1;
  while (after + 1 < moments.size() && moments[after].operation <= point) ++after;
  const auto look =
      run_after_crash(left, [&](sim::SimEnv& env) { return look_at(env, where, data_path); });
  if (look) judge(*look, moments[after - 1], moments[after], always_there, where);
}

void visit(uint64_t seed, const CreateOptions& create, int steps, bool always_there) {
  sim::SimEnv env(seed);
  BitmapRun run(env, create, steps);
  env.run(run.prepare());
  env.storage().record();
  const uint64_t base = env.storage().operations();
  env.run(run.work());
  if (::testing::Test::HasFailure()) return;
  // All that was stored is there.
  const auto last = env.run(look_at(env, "at the end", create.data_file_name));
  if (last) EXPECT_TRUE(last->bitmaps == run.moments().back().bitmaps) << "seed " << seed;
  judge_crashes(env.storage(), base, seed, 2,
                [&](const sim::StorageImage& left, uint64_t operation, const std::string& where) {
                  judge_crash(left, run.moments(), operation, always_there, where,
                              create.data_file_name);
                });
}

CreateOptions small(uint64_t cluster, uint64_t clusters) {
  CreateOptions o;
  o.cluster_size = cluster;
  // Bits that end within a byte.
  o.size = clusters * cluster + 3 * 512;
  return o;
}

// Several clusters of bits; the whole header is in one sector.
TEST(Qcow2BitmapsCrash, HeaderInOneSector) {
  sim::for_each_seed(6, [](uint64_t seed) { visit(seed, small(512, 6000), 8, true); });
}

// The header extension lies across the end of the first sector.
TEST(Qcow2BitmapsCrash, HeaderAcrossSectors) {
  sim::for_each_seed(6, [](uint64_t seed) { visit(seed, small(8192, 4200), 8, false); });
}

TEST(Qcow2BitmapsCrash, WideCounts) {
  sim::for_each_seed(2, [](uint64_t seed) {
    CreateOptions o = small(512, 6000);
    o.refcount_bits = 64;
    visit(seed, o, 6, true);
  });
}

// The disk is in another file, and loses what was not flushed there for itself.
TEST(Qcow2BitmapsCrash, DataFile) {
  sim::for_each_seed(3, [](uint64_t seed) {
    CreateOptions o = small(512, 6000);
    o.data_file = true;
    o.data_file_name = "data";
    o.data_file_raw = seed % 2 == 0;
    visit(seed, o, 8, true);
  });
}

// --- requests that fail

enum class Doing { kStore, kRemove };

struct Tried {
  bool failed = false;
  bool written = false;
};

Task<Bits> fault_prepare(Env& env, CreateOptions create) {
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  auto opened = co_await open_image(env, "disk", writable_options());
  Image& image = *(*opened)->image;
  EXPECT_TRUE(co_await put(image, std::byte{1}));
  PlainBits bits(bits_needed(image.length(), kGranularity));
  bits.set(3, 2000);
  BitmapToStore one;
  one.name = "first";
  one.granularity_bits = kGranularity;
  one.bits = &bits;
  BitmapToStore other = one;
  other.name = "second";
  EXPECT_TRUE(co_await store_bitmaps(image.metadata(), {one, other}));
  EXPECT_TRUE(co_await (*opened)->close());
  co_return bits.bits();
}

// Afterwards the disk is written to, which makes every bitmap on the disk out of date.
Task<Tried> attempt(Env& env, Doing doing, bool write) {
  Tried tried;
  auto opened = co_await open_image(env, "disk", writable_options());
  tried.failed = !opened;
  if (!opened) co_return tried;
  Image& image = *(*opened)->image;
  PlainBits bits(bits_needed(image.length(), kGranularity));
  bits.set(1, 5555);
  if (doing == Doing::kStore) {
    BitmapToStore one;
    one.name = "second";
    one.granularity_bits = kGranularity;
    one.bits = &bits;
    BitmapToStore third = one;
    third.name = "third";
    tried.failed = !co_await store_bitmaps(image.metadata(), {one, third});
  } else {
    tried.failed = !co_await remove_bitmap(image.metadata(), "second");
  }
  if (write) {
    tried.written = co_await put(image, std::byte{2});
    tried.failed |= !tried.written;
  }
  tried.failed |= !co_await (*opened)->close();
  co_return tried;
}

void fail_each(Doing doing, bool write, CreateOptions create, unsigned kinds, uint64_t times) {
  for (uint64_t skip = 0;; ++skip) {
    const std::string where = fmt::format("request {} ", skip);
    sim::SimEnv env(skip + 1);
    const Bits before = env.run(fault_prepare(env, create));
    PlainBits after(before.size());
    after.set(1, 5555);
    sim::FaultRule rule;
    rule.requests = kinds;
    rule.skip = skip;
    rule.times = times;
    const auto id = env.storage().add_fault(rule);
    const Tried tried = env.run(attempt(env, doing, write));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    Moment old_state;
    old_state.data = std::byte{1};
    old_state.bitmaps["first"] = before;
    old_state.bitmaps["second"] = before;
    Moment new_state = old_state;
    if (doing == Doing::kStore) {
      new_state.bitmaps["second"] = new_state.bitmaps["third"] = after.bits();
    } else {
      new_state.bitmaps.erase("second");
    }
    const auto look = env.run(look_at(env, where));
    if (!look) return;
    if (look->data == std::byte{2}) {
      for (const auto& [name, bits] : look->bitmaps) {
        EXPECT_FALSE(bits) << where << name << " is believed although the disk has changed";
      }
    } else {
      judge(*look, old_state, new_state, false, where);
    }
    if (!tried.failed && !write) {
      EXPECT_TRUE(look->bitmaps == new_state.bitmaps) << where;
    }
    if (!hit) {
      EXPECT_FALSE(tried.failed) << where;
      EXPECT_GT(skip, 2u);
    }
    if (!hit || ::testing::Test::HasFailure()) return;
  }
}

class Qcow2BitmapsFaults : public ::testing::TestWithParam<std::tuple<Doing, bool, uint64_t>> {};

TEST_P(Qcow2BitmapsFaults, EachRequest) {
  const auto [doing, write, cluster] = GetParam();
  const CreateOptions create = small(cluster, cluster == 512 ? 6000 : 4200);
  fail_each(doing, write, create, sim::kSimRead, 1);
  for (uint64_t times = 1; times <= 4; ++times) {
    fail_each(doing, write, create, sim::kSimWrite, times);
    fail_each(doing, write, create, sim::kSimFlush, times);
    fail_each(doing, write, create, sim::kSimWrite | sim::kSimFlush, times);
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2BitmapsFaults,
                         ::testing::Combine(::testing::Values(Doing::kStore, Doing::kRemove),
                                            ::testing::Bool(),
                                            ::testing::Values(uint64_t{512}, uint64_t{8192})));

}  // namespace
}  // namespace blockbed::qcow2::test
