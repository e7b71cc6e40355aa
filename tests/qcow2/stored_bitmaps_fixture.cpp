#include "tests/qcow2/stored_bitmaps_fixture.h"

#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {

using Bytes = std::vector<std::byte>;

CreateOptions uneven_disk(uint64_t cluster, uint64_t clusters) {
  CreateOptions options;
  options.cluster_size = cluster;
  options.size = clusters * cluster + 3 * 512;
  return options;
}

Task<std::optional<Look>> look_at(Env& env, std::string where, std::string data_path) {
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

bool believable(const Look& look, const std::string& name, const Look& state) {
  const auto at = state.bitmaps.find(name);
  return look.data == state.data && at != state.bitmaps.end() && at->second &&
         *at->second == *look.bitmaps.at(name);
}

Task<bool> put(Image& image, std::byte value) {
  Bytes data(512, value);
  co_return (co_await image.write(0, IoVector(data.data(), data.size()))).has_value();
}

}  // namespace blockbed::qcow2::test
