// Power cuts while an image is amended: at every change of the file it is whole, with one width of
// counts or the other.
#include "block/formats/qcow2/amend.h"

#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/open.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

Task<void> make(Env& env, CreateOptions create, uint64_t filled) {
  auto made = co_await create_image(env, "disk", create);
  EXPECT_TRUE(made) << made.error().description;
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  std::vector<std::byte> data(filled, std::byte{7});
  EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(data.data(), data.size())));
  if (create.version < 3) {
    std::vector<std::byte> zeroes(4 * create.cluster_size);
    EXPECT_TRUE(co_await (*opened)->image->write(0, IoVector(zeroes.data(), zeroes.size())));
  } else {
    EXPECT_TRUE(co_await (*opened)->image->zero(0, 4 * create.cluster_size, RequestFlags()));
  }
  EXPECT_TRUE(co_await (*opened)->close());
}

Task<void> change(Env& env, AmendOptions options) {
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  auto done = co_await amend(*(*opened)->image, std::move(options));
  EXPECT_TRUE(done) << done.error().description;
  EXPECT_TRUE(co_await (*opened)->close());
}

Task<void> look(Env& env, uint64_t zeroes, uint64_t filled, std::string where, bool final) {
  FileOpenOptions how;
  how.write = true;
  auto file = co_await env.open_file("disk", how);
  if (!file) co_return;
  {
    FileStorage storage(**file);
    auto header = co_await read_header(storage, HeaderUse::kWriting);
    EXPECT_TRUE(header) << where;
    if (header) {
      auto report = co_await check_image(storage, *header);
      EXPECT_TRUE(report) << where;
      if (report) {
        EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
        if (final) EXPECT_TRUE(report->clean()) << where << ": " << report->describe();
      }
    }
  }
  (void)co_await (*file)->close();
  auto opened = co_await open_image(env, "disk", MetadataOptions());
  EXPECT_TRUE(opened) << where;
  if (!opened) co_return;
  std::vector<std::byte> disk(filled);
  EXPECT_TRUE(co_await (*opened)->image->read(0, IoVector(disk.data(), disk.size()))) << where;
  for (uint64_t at = 0; at < filled; ++at) {
    if (disk[at] == (at < zeroes ? std::byte{0} : std::byte{7})) continue;
    ADD_FAILURE() << where << ": byte " << at;
    break;
  }
  (void)co_await (*opened)->close();
}

void visit(CreateOptions create, AmendOptions options, uint64_t filled) {
  sim::SimEnv env(3);
  env.run(make(env, create, filled));
  env.storage().record();
  env.run(change(env, std::move(options)));
  const uint64_t zeroes = 4 * create.cluster_size;
  const uint64_t states =
      judge_crashes(env.storage(), 0, 1, 1,
                    [&](const sim::StorageImage& left, uint64_t, const std::string& where) {
                      run_after_crash(left, [&](sim::SimEnv& after) {
                        return look(after, zeroes, filled, where, /*final=*/false);
                      });
                    });
  EXPECT_GT(states, 8U);
  env.run(look(env, zeroes, filled, "at the end", /*final=*/true));
}

CreateOptions small() {
  CreateOptions create;
  create.cluster_size = 512;
  create.size = 1000 * 512;
  return create;
}

TEST(Qcow2Amend, WiderCounts) {
  AmendOptions options;
  options.refcount_bits = 64;
  visit(small(), std::move(options), 900 * 512);
}

TEST(Qcow2Amend, NarrowerCounts) {
  AmendOptions options;
  options.refcount_bits = 1;
  visit(small(), std::move(options), 900 * 512);
}

TEST(Qcow2Amend, OlderVersion) {
  AmendOptions options;
  options.version = 2;
  visit(small(), std::move(options), 100 * 512);
}

TEST(Qcow2Amend, NewerVersionAndLazyCounts) {
  CreateOptions create = small();
  create.version = 2;
  AmendOptions options;
  options.version = 3;
  options.lazy_refcounts = true;
  visit(create, std::move(options), 100 * 512);
}

}  // namespace
}  // namespace blockbed::qcow2::test
