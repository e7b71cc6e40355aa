// Each request to the file fails once while snapshots are made, applied and deleted, until none is
// left to fail: an error is told, and the image holds what it should.
#include <gtest/gtest.h>

#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

enum class Doing { kCreate, kApply, kDelete };

struct Tried {
  bool failed = false;
  // Told or not: whether the step is done.
  bool done = false;
};

Task<void> put(Image& image, uint64_t offset, uint64_t length, std::byte value) {
  Bytes data(length, value);
  auto written = co_await image.write(offset, IoVector(data.data(), data.size()));
  EXPECT_TRUE(written);
}

Task<bool> holds(Image& image, uint64_t offset, uint64_t length, std::byte value) {
  Bytes data(length);
  auto read = co_await image.read(offset, IoVector(data.data(), data.size()));
  EXPECT_TRUE(read);
  co_return data == Bytes(length, value);
}

// Two snapshots with different disks, and a third state of the disk.
Task<void> prepare(Env& env, CreateOptions create) {
  auto made = co_await create_image(env, "disk", create);
  EXPECT_TRUE(made);
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  const uint64_t cluster = image.geometry().cluster_size;
  co_await put(image, 0, 40 * cluster, std::byte{1});
  co_await put(image, 90 * cluster, 3 * cluster, std::byte{1});
  Snapshot first;
  first.name = "first";
  EXPECT_TRUE(co_await image.create_snapshot(first));
  co_await put(image, 0, 10 * cluster, std::byte{2});
  Bytes vm_state(2 * cluster + 77, std::byte{9});
  EXPECT_TRUE(co_await image.write_vm_state(0, IoVector(vm_state.data(), vm_state.size())));
  Snapshot second;
  second.name = "second";
  second.vm_state_size = vm_state.size();
  EXPECT_TRUE(co_await image.create_snapshot(second));
  co_await put(image, 5 * cluster, 10 * cluster, std::byte{3});
  EXPECT_TRUE(co_await (*opened)->close());
}

// Afterwards the disk is written to as well: what an error leaves in memory must be right.
Task<Tried> attempt(Env& env, Doing doing) {
  Tried tried;
  auto opened = co_await open_image(env, "disk", writable_options());
  if (!opened) {
    tried.failed = true;
    co_return tried;
  }
  Image& image = *(*opened)->image;
  const uint64_t cluster = image.geometry().cluster_size;
  switch (doing) {
    case Doing::kCreate: {
      Snapshot third;
      third.name = "third";
      tried.failed = !co_await image.create_snapshot(third);
      break;
    }
    case Doing::kApply:
      tried.failed = !co_await image.apply_snapshot(0);
      break;
    case Doing::kDelete:
      tried.failed = !co_await image.delete_snapshot(0);
      break;
  }
  const bool told = tried.failed;
  Bytes data(cluster, std::byte{7});
  const bool written =
      (co_await image.write(20 * cluster, IoVector(data.data(), data.size()))).has_value();
  tried.failed |= !written;
  tried.failed |= !co_await image.flush();
  tried.failed |= !co_await (*opened)->close();
  if (doing == Doing::kCreate && !told) tried.done = true;
  co_return tried;
}

Task<void> judge(Env& env, Doing doing, Tried tried, bool hit, std::string where) {
  {
    auto file = co_await env.open_file("disk", FileOpenOptions());
    if (!file) co_return;
    FileStorage storage(**file);
    auto header = co_await read_header(storage, false);
    EXPECT_TRUE(header) << where;
    if (header) {
      const References found = co_await walk_references(storage, *header, true);
      EXPECT_EQ(found.fault, "") << where;
      if (!hit) EXPECT_EQ(found.leaks, 0u) << where;
    }
    (void)co_await (*file)->close();
  }
  if (::testing::Test::HasFailure()) co_return;
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened) << where;
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  const uint64_t cluster = image.geometry().cluster_size;
  const std::size_t count = image.snapshots().size();
  switch (doing) {
    case Doing::kCreate:
      EXPECT_TRUE(count == 2 || count == 3) << where;
      if (tried.done) EXPECT_EQ(count, 3u) << where;
      EXPECT_TRUE(co_await holds(image, 5 * cluster, 10 * cluster, std::byte{3})) << where;
      break;
    case Doing::kApply:
      EXPECT_EQ(count, 2u) << where;
      // Wholly the one or the other.
      EXPECT_TRUE((co_await holds(image, 5 * cluster, 10 * cluster, std::byte{3}) &&
                   co_await holds(image, 0, 5 * cluster, std::byte{2})) ||
                  co_await holds(image, 0, 20 * cluster, std::byte{1}))
          << where;
      break;
    case Doing::kDelete:
      EXPECT_TRUE(count == 1 || count == 2) << where;
      EXPECT_TRUE(co_await holds(image, 5 * cluster, 10 * cluster, std::byte{3})) << where;
      break;
  }
  EXPECT_TRUE(co_await holds(image, 21 * cluster, 19 * cluster, std::byte{1})) << where;
  // The second snapshot is as it was.
  const std::size_t second = image.snapshots()[0].name == "second" ? 0 : 1;
  EXPECT_EQ(image.snapshots()[second].name, "second") << where;
  EXPECT_TRUE(co_await image.apply_snapshot(second)) << where;
  EXPECT_TRUE(co_await holds(image, 0, 10 * cluster, std::byte{2})) << where;
  EXPECT_TRUE(co_await holds(image, 10 * cluster, 30 * cluster, std::byte{1})) << where;
  Bytes vm_state(2 * cluster + 77);
  EXPECT_TRUE(co_await image.read_vm_state(0, IoVector(vm_state.data(), vm_state.size())));
  EXPECT_EQ(vm_state, Bytes(vm_state.size(), std::byte{9})) << where;
  EXPECT_TRUE(co_await (*opened)->close()) << where;
}

// `times`: how many requests in a row fail.
void fail_each(Doing doing, unsigned kinds, CreateOptions create, int error, uint64_t times = 1) {
  for (uint64_t skip = 0;; ++skip) {
    sim::SimEnv env(skip + 1);
    env.run(prepare(env, create));
    sim::FaultRule rule;
    rule.requests = kinds;
    rule.skip = skip;
    rule.times = times;
    rule.error = error;
    const auto id = env.storage().add_fault(rule);
    const Tried tried = env.run(attempt(env, doing));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    env.run(judge(env, doing, tried, hit, "fault " + std::to_string(skip)));
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "request " << skip << " failed";
      return;
    }
    if (!hit) {
      EXPECT_FALSE(tried.failed);
      EXPECT_GT(skip, 5u);
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

class Qcow2SnapshotFaults : public ::testing::TestWithParam<Doing> {};

TEST_P(Qcow2SnapshotFaults, Writes) {
  fail_each(GetParam(), sim::kSimWrite, options(512, 16), EIO);
}
TEST_P(Qcow2SnapshotFaults, WritesTwiceInARow) {
  fail_each(GetParam(), sim::kSimWrite, options(512, 16), EIO, 2);
}
TEST_P(Qcow2SnapshotFaults, WritesWithoutSpace) {
  fail_each(GetParam(), sim::kSimWrite, options(4096, 16), ENOSPC);
}
TEST_P(Qcow2SnapshotFaults, WritesWideCounts) {
  fail_each(GetParam(), sim::kSimWrite, options(512, 64), EIO);
}
TEST_P(Qcow2SnapshotFaults, Reads) { fail_each(GetParam(), sim::kSimRead, options(512, 16), EIO); }
TEST_P(Qcow2SnapshotFaults, Flushes) {
  fail_each(GetParam(), sim::kSimFlush, options(512, 8), EIO);
}

std::string doing_name(const ::testing::TestParamInfo<Doing>& info) {
  switch (info.param) {
    case Doing::kCreate:
      return "Create";
    case Doing::kApply:
      return "Apply";
    case Doing::kDelete:
      return "Delete";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2SnapshotFaults,
                         ::testing::Values(Doing::kCreate, Doing::kApply, Doing::kDelete),
                         doing_name);

}  // namespace
}  // namespace blockbed::qcow2::test
