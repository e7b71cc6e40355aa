// Internal snapshots: limits, VM states, and disks of another size.
#include <gtest/gtest.h>

#include "block/formats/qcow2/endian.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/memory_storage.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

CreateOptions options(uint64_t cluster, uint64_t clusters) {
  CreateOptions o;
  o.cluster_size = cluster;
  o.size = clusters * cluster;
  return o;
}

Task<Header> header_of(Env& env) {
  auto file = co_await env.open_file("disk", FileOpenOptions());
  FileStorage storage(**file);
  auto header = co_await read_header(storage, false);
  EXPECT_TRUE(header);
  (void)co_await (*file)->close();
  co_return *header;
}

// A table of `count` snapshots of nothing, behind the end of the file; it is not counted.
Task<void> put_table(Env& env, uint32_t count) {
  std::vector<Snapshot> snapshots(count);
  for (uint32_t i = 0; i < count; ++i) snapshots[i].id = std::to_string(i + 1);
  const std::vector<std::byte> bytes = serialise_snapshots(snapshots, 0);
  FileOpenOptions how;
  how.write = true;
  auto file = co_await env.open_file("disk", how);
  FileStorage storage(**file);
  auto length = co_await storage.length();
  const uint64_t at = align_up(*length, 65536);
  EXPECT_TRUE(co_await storage.write(at, IoVector(std::span<const std::byte>(bytes))));
  std::byte fields[12];
  store_be<uint32_t>(fields, count);
  store_be64(fields + 4, at);
  EXPECT_TRUE(co_await storage.write(field::kSnapshots, IoVector(fields, sizeof(fields))));
  (void)co_await (*file)->close();
}

Task<void> fill_the_table(Env& env) {
  EXPECT_TRUE(co_await create_image(env, "disk", options(65536, 4)));
  co_await put_table(env, kMaxSnapshots - 1);
  {
    // The table is not counted, so new clusters may well lie over it.
    MetadataOptions unchecked = writable_options();
    unchecked.overlap_checks = overlap::kNone;
    auto opened = co_await open_image(env, "disk", unchecked);
    EXPECT_TRUE(opened);
    if (!opened) co_return;
    Image& image = *(*opened)->image;
    auto last = co_await image.create_snapshot(Snapshot());
    EXPECT_TRUE(last);
    if (last) EXPECT_EQ(*last, "65536");
    auto beyond = co_await image.create_snapshot(Snapshot());
    EXPECT_FALSE(beyond);
    if (!beyond) EXPECT_EQ(beyond.error().number(), EFBIG);
    EXPECT_EQ(image.snapshots().size(), kMaxSnapshots);
    EXPECT_TRUE(co_await (*opened)->close());
  }
  co_await put_table(env, kMaxSnapshots + 1);
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_FALSE(opened);
  if (!opened) EXPECT_EQ(opened.error().description, "Snapshot table too large");
}

TEST(Qcow2Snapshots, NoMoreThanQemuHas) {
  sim::SimEnv env(1);
  env.run(fill_the_table(env));
}

// Entries of all lengths, so that they lie in every manner over the pages that are read at once.
TEST(Qcow2Snapshots, TableIsReadInPages) {
  sim::SimEnv env(1);
  sim::SimRandom random(1, 7);
  std::vector<Snapshot> written;
  for (const std::size_t name_bytes : {0, 1, 7, 4000, 4096, 65535, 0, 255, 8192}) {
    for (int i = 0; i < 40; ++i) {
      Snapshot& snapshot = written.emplace_back();
      snapshot.id = std::to_string(written.size());
      snapshot.name.assign(name_bytes - std::min<std::size_t>(name_bytes, random.below(8)), 'n');
      snapshot.l1_offset = written.size() * 65536;
      snapshot.disk_size = written.size();
      snapshot.unknown_extra.resize(random.below(kMaxSnapshotExtraBytes - 24));
      for (std::byte& each : snapshot.unknown_extra) each = static_cast<std::byte>(written.size());
    }
  }
  const std::vector<std::byte> bytes = serialise_snapshots(written, 0);
  MemoryStorage file(env.executor(), 1, 0);
  Header header;
  header.snapshots_offset = 65536;
  header.snapshot_count = static_cast<uint32_t>(written.size());
  file.bytes.resize(header.snapshots_offset + bytes.size());
  file.bytes.write(header.snapshots_offset, bytes);
  // Each byte once, but for the pages in which one window ends and the next begins.
  file.may_read = 2 * bytes.size();
  const auto load = [&]() -> Task<void> {
    auto table = co_await load_snapshots(file, header);
    EXPECT_TRUE(table);
    if (!table) co_return;
    EXPECT_EQ(table->bytes, bytes.size());
    EXPECT_EQ(serialise_snapshots(table->snapshots, 0), bytes);
  };
  env.run(load());
}

Task<void> long_vm_state(Env& env, uint64_t cluster) {
  EXPECT_TRUE(co_await create_image(env, "disk", options(cluster, 10)));
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  // Several L2 tables, in pieces of an odd length.
  Bytes state(200 * cluster + 33);
  for (std::size_t i = 0; i < state.size(); ++i) state[i] = static_cast<std::byte>(i * 7 / 5);
  constexpr std::size_t kPiece = 7001;
  for (std::size_t at = 0; at < state.size(); at += kPiece) {
    const std::size_t length = std::min(kPiece, state.size() - at);
    EXPECT_TRUE(co_await image.write_vm_state(at, IoVector(state.data() + at, length)));
  }
  Snapshot snapshot;
  snapshot.vm_state_size = state.size();
  EXPECT_TRUE(co_await image.create_snapshot(snapshot));
  // The disk has it no more, also when it grows over the place.
  EXPECT_TRUE(co_await image.truncate(image.length() + 500 * cluster, TruncateOptions()));
  Bytes disk(image.length());
  EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size())));
  EXPECT_EQ(disk, Bytes(disk.size()));

  EXPECT_TRUE(co_await image.apply_snapshot(0));
  EXPECT_EQ(image.length(), 10 * cluster);
  Bytes back(state.size());
  EXPECT_TRUE(co_await image.read_vm_state(0, IoVector(back.data(), back.size())));
  EXPECT_EQ(back, state);
  // Here the disk has it again, and must not show it.
  EXPECT_TRUE(co_await image.truncate(image.length() + 500 * cluster, TruncateOptions()));
  EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size())));
  EXPECT_EQ(disk, Bytes(disk.size()));
  auto too_long = co_await image.write_vm_state(UINT64_MAX / 2, IoVector(back.data(), back.size()));
  EXPECT_FALSE(too_long);
  EXPECT_TRUE(co_await (*opened)->close());
  const Header header = co_await header_of(env);
  auto file = co_await env.open_file("disk", FileOpenOptions());
  FileStorage storage(**file);
  const References found = co_await walk_references(storage, header);
  EXPECT_EQ(found.fault, "");
  EXPECT_EQ(found.leaks, 0u);
  (void)co_await (*file)->close();
}

TEST(Qcow2Snapshots, VmStateOfManyTables) {
  for (uint64_t cluster : {512, 4096}) {
    sim::SimEnv env(1);
    env.run(long_vm_state(env, cluster));
  }
}

// A backing file that is longer than the disk does not shine through into the VM state.
Task<void> over_a_longer_backing(Env& env) {
  EXPECT_TRUE(co_await create_image(env, "disk", options(512, 10)));
  auto opened =
      co_await open_image(env, "disk", writable_options(), Bytes(200 * 512, std::byte{5}));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  Bytes state(100, std::byte{1});
  EXPECT_TRUE(co_await image.write_vm_state(700, IoVector(state.data(), state.size())));
  Bytes back(2000);
  EXPECT_TRUE(co_await image.read_vm_state(0, IoVector(back.data(), back.size())));
  Bytes wanted(2000);
  std::ranges::copy(state, wanted.begin() + 700);
  EXPECT_EQ(back, wanted);
  EXPECT_TRUE(co_await (*opened)->close());
}

TEST(Qcow2Snapshots, VmStateOverALongerBackingFile) {
  sim::SimEnv env(1);
  env.run(over_a_longer_backing(env));
}

}  // namespace
}  // namespace blockbed::qcow2::test
