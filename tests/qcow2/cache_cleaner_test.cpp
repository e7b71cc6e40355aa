// cache-clean-interval: what nobody uses is forgotten, what is used stays.
#include "block/formats/qcow2/cache_cleaner.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "block/sim/sim_env.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr uint64_t kCluster = 65536;

// Requests to the file that a read of one cluster takes: one when its table is in memory.
Task<uint64_t> reads_for_a_cluster(OpenedImage& opened) {
  std::vector<std::byte> data(kCluster);
  const uint64_t before = opened.storage->reads;
  auto done = co_await opened.image->read(0, IoVector(data.data(), data.size()));
  EXPECT_TRUE(done);
  co_return opened.storage->reads - before;
}

Task<void> idle_tables_are_forgotten(Env& env) {
  CreateOptions create;
  create.size = 16 * kCluster;
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  std::vector<std::byte> data(kCluster, std::byte{1});
  EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(data.data(), data.size())));
  EXPECT_TRUE(co_await (*opened)->image->flush());
  (void)co_await reads_for_a_cluster(**opened);

  CacheCleaner cleaner(env);
  cleaner.start(*(*opened)->image, 10);
  // The first time around only takes note.
  co_await env.sleep(15 * kSecondNs);
  EXPECT_EQ(co_await reads_for_a_cluster(**opened), 1u);
  co_await env.sleep(25 * kSecondNs);
  EXPECT_EQ(co_await reads_for_a_cluster(**opened), 2u);
  co_await cleaner.stop();
  co_await env.sleep(100 * kSecondNs);
  EXPECT_EQ(co_await reads_for_a_cluster(**opened), 1u);

  // 0 is never.
  cleaner.start(*(*opened)->image, 0);
  co_await env.sleep(100 * kSecondNs);
  EXPECT_EQ(co_await reads_for_a_cluster(**opened), 1u);
  co_await cleaner.stop();
  EXPECT_TRUE(co_await (*opened)->close());
}

TEST(Qcow2CacheCleaner, IdleTablesAreForgotten) {
  sim::SimEnv env(1);
  env.run(idle_tables_are_forgotten(env));
}

// What has changed is in memory only: it is no matter of tidying.
Task<void> changed_tables_stay(Env& env) {
  CreateOptions create;
  create.size = 16 * kCluster;
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  CacheCleaner cleaner(env);
  cleaner.start(*(*opened)->image, 1);
  std::vector<std::byte> data(kCluster, std::byte{1});
  EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(data.data(), data.size())));
  co_await env.sleep(10 * kSecondNs);
  EXPECT_GT((*opened)->image->metadata().l2_cache().dirty_count(), 0u);
  EXPECT_EQ(co_await reads_for_a_cluster(**opened), 1u);
  co_await cleaner.stop();
  EXPECT_TRUE(co_await (*opened)->close());
}

TEST(Qcow2CacheCleaner, ChangedTablesStay) {
  sim::SimEnv env(2);
  env.run(changed_tables_stay(env));
}

// A few pieces in use, anywhere between thousands that are not, hold no more memory than they need.
Task<void> memory_shrinks_to_what_is_used(Env& env) {
  constexpr uint64_t kSmall = 512;
  // One cluster of each L2 table, which is one piece.
  constexpr uint64_t kStride = kSmall * (kSmall / sizeof(uint64_t));
  constexpr uint64_t kTables = 3000;
  constexpr uint64_t kUsed = 70;
  CreateOptions create;
  create.cluster_size = kSmall;
  create.size = kTables * kStride;
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  MetadataOptions options = writable_options();
  options.l2_pieces = 2 * kTables;
  auto opened = co_await open_image(env, "disk", options);
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  TableCache& cache = image.metadata().l2_cache();
  std::vector<std::byte> data(kSmall);
  for (uint64_t i = 0; i < kTables; ++i) {
    std::ranges::fill(data, static_cast<std::byte>(i % 251 + 1));
    EXPECT_TRUE(co_await image.write(i * kStride, IoVector(data.data(), data.size())));
  }
  EXPECT_TRUE(co_await image.flush());
  EXPECT_GE(cache.memory_bytes(), kTables * kSmall);

  cache.trim();
  const auto read_used = [&]() -> Task<uint64_t> {
    const uint64_t before = (*opened)->storage->reads;
    for (uint64_t n = 0; n < kUsed; ++n) {
      const uint64_t i = n * (kTables / kUsed);
      EXPECT_TRUE(co_await image.read(i * kStride, IoVector(data.data(), data.size())));
      const auto byte = static_cast<std::byte>(i % 251 + 1);
      EXPECT_TRUE(std::ranges::all_of(data, [byte](std::byte b) { return b == byte; })) << i;
    }
    co_return (*opened)->storage->reads - before;
  };
  EXPECT_EQ(co_await read_used(), kUsed);
  // One that waits to be written stays where it is.
  std::ranges::fill(data, std::byte{255});
  EXPECT_TRUE(
      co_await image.write((kTables - 1) * kStride + kSmall, IoVector(data.data(), kSmall)));
  EXPECT_EQ(cache.dirty_count(), 1u);
  const std::size_t all = cache.memory_bytes();
  cache.trim();
  EXPECT_EQ(cache.memory_bytes(), all);
  EXPECT_TRUE(co_await image.flush());
  EXPECT_EQ(co_await read_used(), kUsed);
  cache.trim();
  EXPECT_LE(cache.memory_bytes(), std::size_t{256} << 10);
  EXPECT_EQ(co_await read_used(), kUsed);
  EXPECT_TRUE(co_await image.read((kTables - 1) * kStride + kSmall, IoVector(data.data(), kSmall)));
  EXPECT_EQ(data[0], std::byte{255});

  // Nothing is used: nothing is held, and all can be had again.
  cache.trim();
  cache.trim();
  EXPECT_EQ(cache.memory_bytes(), 0u);
  EXPECT_EQ(co_await read_used(), 2 * kUsed);
  EXPECT_TRUE(co_await (*opened)->close());
}

TEST(Qcow2CacheCleaner, MemoryShrinksToWhatIsUsed) {
  sim::SimEnv env(3);
  env.run(memory_shrinks_to_what_is_used(env));
}

}  // namespace
}  // namespace blockbed::qcow2::test
