// Each request to the file fails once, in turn, until none is left to fail: an error is told,
// nothing else breaks. Disks that fill up: full_disk_test.cpp.
#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

// A fixed script that touches every kind of metadata. True: something failed.
Task<bool> script(Env& env, Bytes& model, bool lazy) {
  MetadataOptions options = writable_options();
  options.l2_pieces = 4;
  options.refcount_pieces = 4;
  options.lazy_refcounts = lazy;
  auto opened = co_await open_image(env, "disk", options);
  if (!opened) co_return true;
  Image& image = *(*opened)->image;
  const uint64_t cluster = image.geometry().cluster_size;
  bool failed = false;
  uint64_t number = 0;
  // What failed may hold anything: marked, and not compared.
  constexpr std::byte kUnknown{0xee};
  auto account = [&](uint64_t offset, uint64_t length, const Result<void>& done, std::byte value) {
    if (!done) {
      EXPECT_TRUE(done.error().number() == EIO || done.error().number() == ENOSPC)
          << done.error().number();
      failed = true;
    }
    for (uint64_t i = offset; i < offset + length; ++i) model[i] = done ? value : kUnknown;
  };
  for (uint64_t offset :
       {uint64_t{0}, 70 * cluster, 3 * cluster + 512, 140 * cluster, uint64_t{512}}) {
    Bytes data(2 * cluster, static_cast<std::byte>(++number));
    auto done = co_await image.write(offset, IoVector(data.data(), data.size()));
    account(offset, data.size(), done, static_cast<std::byte>(number));
  }
  {
    Bytes data(4 * cluster, static_cast<std::byte>(++number));
    auto done = co_await image.write_compressed(20 * cluster, IoVector(data.data(), data.size()));
    account(20 * cluster, data.size(), done, static_cast<std::byte>(number));
  }
  if (auto done = co_await image.flush(); !done) failed = true;
  if (auto done = co_await image.zero(cluster, 2 * cluster, RequestFlags().with_may_unmap());
      true) {
    account(cluster, 2 * cluster, done, std::byte{0});
  }
  if (auto done = co_await image.discard(70 * cluster, cluster); true) {
    account(70 * cluster, cluster, done, std::byte{0});
  }
  {
    Bytes data(cluster, static_cast<std::byte>(++number));
    auto done = co_await image.write(21 * cluster + 512, IoVector(data.data(), data.size()));
    account(21 * cluster + 512, data.size(), done, static_cast<std::byte>(number));
  }
  if (auto done = co_await image.flush(); !done) failed = true;
  Bytes back(model.size());
  auto read = co_await image.read(0, IoVector(back.data(), back.size()));
  if (read) {
    for (std::size_t i = 0; i < model.size(); ++i) {
      if (model[i] != kUnknown && back[i] != model[i]) {
        ADD_FAILURE() << "byte " << i << " is " << static_cast<int>(back[i]) << " and not "
                      << static_cast<int>(model[i]);
        break;
      }
    }
  } else {
    failed = true;
  }
  auto grown = co_await image.truncate(image.length() + 200 * cluster, TruncateOptions());
  if (!grown) failed = true;
  auto closed = co_await (*opened)->close();
  if (!closed) failed = true;
  co_return failed;
}

Task<void> judge(Env& env, bool may_leak, std::string where) {
  auto file = co_await env.open_file("disk", FileOpenOptions());
  if (!file) co_return;
  FileStorage storage(**file);
  auto header = co_await read_header(storage, false);
  EXPECT_TRUE(header) << where;
  if (header && !header->has(incompatible::kDirty)) {
    auto report = co_await check_image(storage, *header);
    EXPECT_TRUE(report) << where;
    if (report) {
      EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
      if (!may_leak) EXPECT_EQ(report->leaks, 0u) << where << ": " << report->describe();
    }
  }
  (void)co_await (*file)->close();
}

void fail_each(unsigned kinds, CreateOptions create, bool lazy, int error) {
  for (uint64_t skip = 0;; ++skip) {
    sim::SimEnv env(skip + 1);
    ASSERT_TRUE(env.run(create_image(env, "disk", create)));
    sim::FaultRule rule;
    rule.requests = kinds;
    rule.skip = skip;
    rule.error = error;
    const auto id = env.storage().add_fault(rule);
    Bytes model(create.size);
    const bool failed = env.run(script(env, model, lazy));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    env.run(judge(env, hit, "fault " + std::to_string(skip)));
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "request " << skip << " failed";
      return;
    }
    if (!hit) {
      EXPECT_FALSE(failed);
      EXPECT_GT(skip, 10u);
      return;
    }
  }
}

CreateOptions options(uint64_t cluster, uint32_t bits) {
  CreateOptions o;
  o.cluster_size = cluster;
  o.refcount_bits = bits;
  o.size = 160 * cluster;
  return o;
}

TEST(Qcow2Faults, Writes) { fail_each(sim::kSimWrite, options(512, 16), false, EIO); }
TEST(Qcow2Faults, WritesWithoutSpace) {
  fail_each(sim::kSimWrite, options(4096, 16), false, ENOSPC);
}
TEST(Qcow2Faults, WritesWideCounts) { fail_each(sim::kSimWrite, options(512, 64), false, EIO); }
TEST(Qcow2Faults, Reads) { fail_each(sim::kSimRead, options(512, 16), false, EIO); }
TEST(Qcow2Faults, Flushes) { fail_each(sim::kSimFlush, options(512, 16), false, EIO); }
TEST(Qcow2Faults, LazyWrites) { fail_each(sim::kSimWrite, options(512, 8), true, EIO); }
TEST(Qcow2Faults, LazyFlushes) { fail_each(sim::kSimFlush, options(512, 8), true, EIO); }

}  // namespace
}  // namespace blockbed::qcow2::test
