// The life of an image with dirty bitmaps (image_life_fixture.h), cut off at every operation of the
// storage.
//
// At each point what the next one to open the images may believe of a bitmap is what it was at one
// moment, and then the disk holds what it held at that moment: a bitmap is complete, or in use, or
// not there. Before that the order of the writes to the image is judged.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>

#include "block/formats/qcow2/check.h"
#include "block/sim/crash_points.h"
#include "tests/backup/image_life_fixture.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/order_judge_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::data_file_of;
using test::DiskData;
using test::ImageLife;
using test::kDiskImage;
using test::kSectorBytes;
using test::Layer;
using test::MarkBits;
using test::Moment;

// --- the next one to open the images

struct Believed {
  MarkBits bits;
  bool enabled = true;
};

struct Look {
  DiskData data;
  // Nothing of those that say they are in use.
  std::map<std::string, std::optional<Believed>> bitmaps;
};

// What is not in the image shows from below.
Task<DiskData> read_disk(qcow2::Image& image, const DiskData& below) {
  Buffer content(image.length());
  EXPECT_TRUE(co_await image.read(0, content.io()));
  const auto* const words = reinterpret_cast<const uint64_t*>(content.data());
  DiskData data;
  for (uint64_t s = 0; s < image.length() / kSectorBytes; ++s) data.push_back(words[s * 64]);
  for (uint64_t at = 0; at < image.length() && !below.empty();) {
    auto status = co_await image.status(at, image.length() - at);
    EXPECT_TRUE(status);
    if (!status) break;
    const uint64_t end = at + status->length;
    if (status->kind == qcow2::Kind::kUnallocated) {
      for (uint64_t s = at / kSectorBytes; s < end / kSectorBytes && s < below.size(); ++s) {
        data[s] = below[s];
      }
    }
    at = end;
  }
  co_return data;
}

Task<std::optional<Look>> look_at(Env& env, std::string name, std::string data_file, DiskData below,
                                  std::string where) {
  auto opened =
      co_await qcow2::test::open_image(env, name, qcow2::MetadataOptions(), {}, data_file);
  EXPECT_TRUE(opened) << where << (opened ? "" : opened.error().description);
  if (!opened) co_return std::nullopt;
  qcow2::Image& image = *(*opened)->image;
  auto report = co_await qcow2::check_image(*(*opened)->storage, image.header());
  EXPECT_TRUE(report && report->corruptions == 0) << where << report->describe();
  Look look;
  look.data = co_await read_disk(image, below);
  auto directory = co_await load_directory(*(*opened)->storage, image.header());
  EXPECT_TRUE(directory) << where << (directory ? "" : directory.error().description);
  for (const qcow2::StoredBitmap& b : *directory) {
    look.bitmaps[b.name] = std::nullopt;
    if (b.in_use()) continue;
    qcow2::test::PlainBits bits(qcow2::test::bits_needed(image.length(), b.granularity_bits));
    auto loaded = co_await load_bits(*(*opened)->storage, image.header(), b, bits);
    EXPECT_TRUE(loaded) << where << (loaded ? "" : loaded.error().description);
    EXPECT_FALSE(bits.beyond) << where;
    look.bitmaps[b.name] = Believed{bits.bits(), (b.flags & qcow2::bitmap_flag::kAuto) != 0};
  }
  co_await (*opened)->abandon();
  co_return look;
}

struct Count {
  uint64_t believed = 0;
  uint64_t in_use = 0;
  uint64_t absent = 0;
};
// By what was being done.
std::map<std::string, Count> counts;

// `now`: what was being done ended with moments[now].
void judge(const std::string& image, const Look& look, const std::vector<Moment>& moments,
           std::size_t now, bool at_its_end, const std::string& where) {
  Count& count = counts[moments[now].step];
  const Layer& end = moments[now].layers.at(image);
  const Layer& begin = moments[now == 0 ? 0 : now - 1].layers.at(image);
  for (const auto& [name, seen] : look.bitmaps) {
    if (!seen) {
      ++count.in_use;
      continue;
    }
    ++count.believed;
    // What a client was told is done with it is not forgotten.
    const auto before = begin.bitmaps.find(name);
    const std::size_t first = before == begin.bitmaps.end() ? 0 : before->second.since;
    bool true_once = false;
    for (std::size_t i = first; i <= now && !true_once; ++i) {
      const auto layer = moments[i].layers.find(image);
      if (layer == moments[i].layers.end()) continue;
      const auto then = layer->second.bitmaps.find(name);
      true_once = then != layer->second.bitmaps.end() &&
                  then->second.same(seen->bits, seen->enabled) && layer->second.data == look.data;
    }
    EXPECT_TRUE(true_once) << where << ": " << name << " is believed, and was not so";
  }
  for (const auto& [name, bitmap] : end.bitmaps) {
    if (!look.bitmaps.contains(name)) ++count.absent;
  }
  if (!at_its_end || !moments[now].closed) return;
  for (const auto& [name, bitmap] : end.bitmaps) {
    const auto found = look.bitmaps.find(name);
    EXPECT_TRUE(found != look.bitmaps.end() && found->second &&
                bitmap.same(found->second->bits, found->second->enabled))
        << where << ": " << name << " was stored, and is not there";
  }
}

// Those that are in use from before the step to its end; the disk comes first.
std::vector<std::string> images_of(const std::vector<Moment>& moments, std::size_t now) {
  std::vector<std::string> images{kDiskImage};
  for (const auto& [image, layer] : moments[now].layers) {
    if (image == kDiskImage) continue;
    if (now == 0 || moments[now - 1].layers.contains(image)) images.push_back(image);
  }
  return images;
}

void print(const std::vector<Moment>& moments) {
  for (const Moment& m : moments) fmt::print("{}: {}\n", m.operation, m.step);
}

void visit(uint64_t seed, const qcow2::CreateOptions& create) {
  ImageLife life(seed, create);
  life.go(3, 12);
  const std::vector<Moment>& moments = life.moments();
  const qcow2::test::OrderVerdict order =
      qcow2::test::judge_order(life.storage(), data_file_of(create, kDiskImage));
  if (!order.faults.empty()) {
    ADD_FAILURE() << "seed " << seed << ": " << describe(order.faults.front());
  }
  if (testing::Test::HasFailure()) return print(moments);
  std::size_t now = 0;
  for (sim::CrashPoints crash(life.storage()); !crash.at_end(); crash.next()) {
    const uint64_t point = life.base() + crash.point();
    while (now + 1 < moments.size() && moments[now].operation < point) ++now;
    const bool at_its_end = moments[now].operation == point;
    std::vector<sim::CrashSubset> subsets{sim::CrashSubset::none(), sim::CrashSubset::all()};
    subsets.push_back(sim::CrashSubset::seeded(seed * 1000 + crash.point()));
    for (const sim::CrashSubset& subset : subsets) {
      const std::string where = fmt::format("seed {} point {} ({}), {} ", seed, crash.point(),
                                            crash.describe(), moments[now].step);
      sim::SimEnv env(1);
      for (const auto& [path, content] : crash.image(subset)) env.storage().put(path, content);
      DiskData disk;
      for (const std::string& image : images_of(moments, now)) {
        const auto look =
            env.run(look_at(env, image, data_file_of(create, image), disk, where + image + " "));
        if (look) judge(image, *look, moments, now, at_its_end, where + image);
        if (look && image == kDiskImage) disk = look->data;
      }
    }
    if (testing::Test::HasFailure()) return print(moments);
  }
}

TEST(BitmapsLife, IsCompleteOrInUseOrAbsentAtEveryCrash) {
  const bool all = sim::for_each_seed(24, [](uint64_t seed) {
    qcow2::CreateOptions create;
    // The last eight: a raw disk whose bitmaps are in a qcow2 image, and a data file that is not
    // raw.
    create.data_file = seed > 16;
    create.data_file_raw = seed > 18;
    create.cluster_size = seed % 3 == 0 ? 4096 : 512;
    create.extended_l2 = seed % 6 == 5;
    if (create.extended_l2) create.cluster_size = 16384;
    visit(seed, create);
  });
  fmt::print("{:20} {:>9} {:>9} {:>9}\n", "crash during", "believed", "in use", "absent");
  for (const auto& [step, count] : counts) {
    fmt::print("{:20} {:9} {:9} {:9}\n", step, count.believed, count.in_use, count.absent);
  }
  if (!all) return;
  // Other steps do nothing to the storage.
  for (const char* step :
       {"backup ends", "close", "commit", "commit cancelled", "flush", "commit refused",
        "left for reading", "open", "refused for reading", "remove", "resize", "snapshot",
        "snapshot refused", "transaction", "writable again", "write"}) {
    EXPECT_TRUE(counts.contains(step)) << step << " was never cut off";
  }
  EXPECT_GT(counts["close"].believed, 0u);
  EXPECT_GT(counts["open"].believed, 0u);
  EXPECT_GT(counts["left for reading"].believed, 0u);
  EXPECT_GT(counts["snapshot"].believed, 0u);
}

}  // namespace
}  // namespace blockbed
