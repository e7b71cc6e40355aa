// Persistent bitmaps while the power is cut at every operation of the storage: a bitmap on the disk
// is complete, or in use, or not there; never believed with bits missing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/stored_bitmaps_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

struct Moment : Look {
  uint64_t operation = 0;
};

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
        EXPECT_TRUE(
            co_await change_bitmap_flags(image.metadata(), {{name, bitmap_flag::kInUse, 0}}));
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

// Several clusters of bits; the whole header is in one sector.
TEST(Qcow2BitmapsCrash, HeaderInOneSector) {
  sim::for_each_seed(6, [](uint64_t seed) { visit(seed, uneven_disk(512, 6000), 8, true); });
}

// The header extension lies across the end of the first sector.
TEST(Qcow2BitmapsCrash, HeaderAcrossSectors) {
  sim::for_each_seed(6, [](uint64_t seed) { visit(seed, uneven_disk(8192, 4200), 8, false); });
}

TEST(Qcow2BitmapsCrash, WideCounts) {
  sim::for_each_seed(2, [](uint64_t seed) {
    CreateOptions o = uneven_disk(512, 6000);
    o.refcount_bits = 64;
    visit(seed, o, 6, true);
  });
}

// The disk is in another file, and loses what was not flushed there for itself.
TEST(Qcow2BitmapsCrash, DataFile) {
  sim::for_each_seed(3, [](uint64_t seed) {
    CreateOptions o = uneven_disk(512, 6000);
    o.data_file = true;
    o.data_file_name = "data";
    o.data_file_raw = seed % 2 == 0;
    visit(seed, o, 8, true);
  });
}

}  // namespace
}  // namespace blockbed::qcow2::test
