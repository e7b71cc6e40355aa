// Every state that a crash may leave, against the choices of a seed.
#include <gtest/gtest.h>

#include <algorithm>

#include "block/sim/crash_points.h"
#include "block/sim/sim_env.h"

namespace blockbed::sim {
namespace {

Change change(Change::Kind kind, uint64_t offset, uint64_t length, unsigned char byte = 0) {
  return {kind, offset, length,
          std::make_shared<const std::vector<std::byte>>(length, std::byte{byte})};
}
Change write(uint64_t offset, uint64_t length, unsigned char byte) {
  return change(Change::Kind::kWrite, offset, length, byte);
}
Change resize(uint64_t size) { return change(Change::Kind::kResize, size, 0); }

// Eight sectors of ones.
SimDisk flushed_disk() {
  SimDisk disk;
  disk.apply(write(0, 8 * kSector, 1));
  disk.make_durable(disk.mark());
  return disk;
}

// They are so many, all different, and all that a seed chooses, and nothing that it never does.
void expect_states(const SimDisk& disk, const std::vector<Change>& in_flight, std::size_t count) {
  const auto every = disk.every_crash(count, in_flight);
  ASSERT_TRUE(every);
  EXPECT_EQ(every->size(), count);
  if (count > 1) EXPECT_FALSE(disk.every_crash(count - 1, in_flight));
  std::vector<bool> met(every->size());
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    const SparseBytes left = disk.after_crash(CrashSubset::seeded(seed), in_flight);
    const auto found = std::ranges::find(*every, left);
    ASSERT_NE(found, every->end()) << "seed " << seed;
    met[static_cast<std::size_t>(found - every->begin())] = true;
  }
  EXPECT_EQ(std::ranges::count(met, true), static_cast<std::ptrdiff_t>(count));
}

TEST(CrashStates, OneOfACleanDisk) { expect_states(flushed_disk(), {}, 1); }

TEST(CrashStates, EachVersionOfEachSector) {
  SimDisk disk = flushed_disk();
  disk.apply(write(kSector, kSector, 2));
  disk.apply(write(kSector, 2 * kSector, 3));
  // 1, 2, 3 and 1, 3; and 1, 4 of what is under way.
  expect_states(disk, {write(6 * kSector, kSector, 4)}, 12);
}

TEST(CrashStates, EqualVersionsAreOne) {
  SimDisk disk = flushed_disk();
  disk.apply(write(0, 8 * kSector, 1));
  disk.apply(write(0, kSector, 2));
  disk.apply(write(0, kSector, 1));
  expect_states(disk, {}, 2);
}

TEST(CrashStates, PartsOfASector) {
  SimDisk disk = flushed_disk();
  disk.apply(write(8, 16, 2));
  disk.apply(write(16, 16, 3));
  expect_states(disk, {}, 4);
  disk.apply(change(Change::Kind::kZero, 0, kSector));
  expect_states(disk, {}, 5);
}

TEST(CrashStates, SizesInOrder) {
  SimDisk disk = flushed_disk();
  // As it was; longer without the bytes, with one, the other, or both sectors of them.
  disk.apply(write(8 * kSector, 2 * kSector, 2));
  expect_states(disk, {}, 5);
  // And shorter, in the middle of a sector.
  disk.apply(resize(100));
  expect_states(disk, {}, 6);
  // And longer again: what was cut off is gone.
  disk.apply(resize(10 * kSector));
  expect_states(disk, {}, 7);
}

Task<void> write_both(Env& env) {
  FileOpenOptions options;
  options.write = options.create = true;
  for (const char* name : {"a", "b"}) {
    const auto file = co_await env.open_file(name, options);
    const Buffer buffer(2 * kSector);
    buffer.io().fill(1);
    EXPECT_TRUE(co_await (*file)->write(0, buffer.io()));
    EXPECT_TRUE(co_await (*file)->close());
  }
}

TEST(CrashStates, OfSeveralDisksTogether) {
  SimEnv env(1);
  for (const char* name : {"a", "b"}) env.storage().put(name, SparseBytes(2 * kSector));
  env.storage().record();
  env.run(write_both(env));
  CrashPoints crash(env.storage());
  while (crash.point() + 1 < crash.count()) crash.next();
  const auto every = crash.every_image(16);
  ASSERT_TRUE(every);
  EXPECT_EQ(every->size(), 16U);
  EXPECT_FALSE(crash.every_image(15));
}

}  // namespace
}  // namespace blockbed::sim
