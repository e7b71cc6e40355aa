// cache-clean-interval: what nobody uses is forgotten, what is used stays.
#include "block/formats/qcow2/cache_cleaner.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace blockbed::qcow2::test
