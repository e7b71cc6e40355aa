// Images with internal snapshots that become ones of version 2: disk, snapshots and VM states stay
// what they are, also when the power is cut at any operation, or when any request fails.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/check.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/crash_walk_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/references_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kClusters = 160;
// Shorter than the disk, longer than the first L2 table.
constexpr uint64_t kBackingClusters = 140;
constexpr uint64_t kVmStateBytes = 1101;

struct Layout {
  uint64_t cluster = 512;
  bool backing = false;
  bool lazy = false;
};

Bytes backing_of(const Layout& layout) {
  return Bytes(layout.backing ? kBackingClusters * layout.cluster : 0, std::byte{4});
}

// The disk, then each snapshot.
struct Contents {
  std::vector<Bytes> disks;
  std::vector<Bytes> vm_states;
  bool operator==(const Contents&) const = default;
};

Task<void> put(Image& image, uint64_t first, uint64_t count, std::byte value) {
  const uint64_t cluster = image.geometry().cluster_size;
  Bytes data(count * cluster, value);
  EXPECT_TRUE(co_await image.write(first * cluster, IoVector(data.data(), data.size())));
}

// With `keep` the clusters keep their place, whoever else refers to it.
Task<void> zero(Image& image, uint64_t first, uint64_t count, bool keep) {
  const uint64_t cluster = image.geometry().cluster_size;
  RequestFlags flags;
  flags.may_unmap = !keep;
  EXPECT_TRUE(co_await image.zero(first * cluster, count * cluster, flags));
}

Task<void> snapshot(Image& image, std::string name, uint64_t vm_state) {
  Snapshot snapshot;
  snapshot.name = name;
  snapshot.vm_state_size = vm_state;
  EXPECT_TRUE(co_await image.create_snapshot(snapshot));
}

// Zeroes of every sort, in tables and places that are shared in every way.
Task<void> prepare(Env& env, Layout layout) {
  CreateOptions create;
  create.cluster_size = layout.cluster;
  create.size = kClusters * layout.cluster;
  create.lazy_refcounts = layout.lazy;
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  auto opened = co_await open_image(env, "disk", writable_options(), backing_of(layout));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  co_await put(image, 0, 40, std::byte{1});
  co_await zero(image, 50, 4, false);
  co_await snapshot(image, "first", 0);
  // In the place of what is data to the first snapshot.
  co_await zero(image, 0, 5, true);
  co_await put(image, 64, 6, std::byte{2});
  co_await zero(image, 64, 3, true);
  Bytes vm_state(kVmStateBytes, std::byte{9});
  EXPECT_TRUE(co_await image.write_vm_state(0, IoVector(vm_state.data(), vm_state.size())));
  co_await snapshot(image, "second", kVmStateBytes);
  // The first table becomes the disk's own, the next one stays shared.
  co_await put(image, 3, 5, std::byte{3});
  co_await zero(image, 128, 2, false);
  co_await put(image, 130, 2, std::byte{5});
  co_await zero(image, 130, 2, true);
  EXPECT_TRUE(co_await (*opened)->close());
}

Task<Expected<void>> downgrade(Image& image) {
  AmendOptions options;
  options.version = 2;
  return amend(image, std::move(options));
}

Task<Bytes> read_shown(Env& env, Layout layout, std::optional<std::size_t> index, Bytes* vm_state) {
  auto opened = co_await open_image(env, "disk", MetadataOptions(), backing_of(layout));
  EXPECT_TRUE(opened);
  if (!opened) co_return Bytes();
  Image& image = *(*opened)->image;
  if (index) {
    EXPECT_TRUE(co_await image.show_snapshot(*index));
    vm_state->resize(image.snapshots()[*index].vm_state_size);
    EXPECT_TRUE(co_await image.read_vm_state(0, IoVector(vm_state->data(), vm_state->size())));
  }
  Bytes disk(image.length());
  EXPECT_TRUE(co_await image.read(0, IoVector(disk.data(), disk.size())));
  EXPECT_TRUE(co_await (*opened)->close());
  co_return disk;
}

Task<Contents> read_all(Env& env, Layout layout) {
  Contents contents;
  contents.disks.push_back(co_await read_shown(env, layout, {}, nullptr));
  for (std::size_t i = 0; i < 2; ++i) {
    Bytes vm_state;
    contents.disks.push_back(co_await read_shown(env, layout, i, &vm_state));
    contents.vm_states.push_back(std::move(vm_state));
  }
  co_return contents;
}

struct Judged {
  uint32_t version = 0;
  uint64_t leaks = 0;
};

// Nothing but leaks.
Task<Judged> judge(Env& env, std::string where) {
  Judged judged;
  auto file = co_await env.open_file("disk", FileOpenOptions());
  EXPECT_TRUE(file) << where;
  if (!file) co_return judged;
  FileStorage storage(**file);
  auto header = co_await read_header(storage, false);
  EXPECT_TRUE(header) << where;
  if (header && !header->has(incompatible::kDirty)) {
    const References found = co_await walk_references(storage, *header, false);
    EXPECT_EQ(found.fault, "") << where;
    auto report = co_await check_image(storage, *header);
    EXPECT_TRUE(report) << where;
    if (report) EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
    judged.leaks = found.leaks;
  }
  if (header) judged.version = header->version;
  (void)co_await (*file)->close();
  co_return judged;
}

Task<void> change(Env& env, Layout layout) {
  auto opened = co_await open_image(env, "disk", writable_options(), backing_of(layout));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  auto done = co_await downgrade(*(*opened)->image);
  EXPECT_TRUE(done) << done.error().description;
  EXPECT_TRUE(co_await (*opened)->close());
}

// --- power cuts

void cut_each(Layout layout) {
  sim::SimEnv env(3);
  env.run(prepare(env, layout));
  const Contents contents = env.run(read_all(env, layout));
  env.storage().record();
  env.run(change(env, layout));
  const uint64_t states =
      judge_crashes(env.storage(), 0, 1, 4,
                    [&](const sim::StorageImage& left, uint64_t, const std::string& where) {
                      EXPECT_EQ(run_after_crash(left,
                                                [&](sim::SimEnv& after) -> Task<Contents> {
                                                  (void)co_await judge(after, where);
                                                  co_return co_await read_all(after, layout);
                                                }),
                                contents)
                          << where;
                    });
  EXPECT_GT(states, 8U);
  const Judged at_end = env.run(judge(env, "at the end"));
  EXPECT_EQ(at_end.version, 2u);
  EXPECT_EQ(at_end.leaks, 0u);
  EXPECT_EQ(env.run(read_all(env, layout)), contents);
}

TEST(Qcow2Downgrade, PowerCuts) { cut_each({512, false, false}); }
TEST(Qcow2Downgrade, PowerCutsOverABackingFile) { cut_each({512, true, false}); }
TEST(Qcow2Downgrade, PowerCutsWithLazyCounts) { cut_each({512, true, true}); }
TEST(Qcow2Downgrade, PowerCutsLargerClusters) { cut_each({1024, true, false}); }

// --- requests that fail

// A cluster that is written afterwards: what an error leaves in memory must be right.
constexpr uint64_t kWrittenCluster = 20;

Task<bool> attempt(Env& env, Layout layout) {
  MetadataOptions options = writable_options();
  options.l2_pieces = 4;
  options.refcount_pieces = 4;
  auto opened = co_await open_image(env, "disk", options, backing_of(layout));
  if (!opened) co_return false;
  Image& image = *(*opened)->image;
  bool good = (co_await downgrade(image)).has_value();
  Bytes data(layout.cluster, std::byte{7});
  good &=
      (co_await image.write(kWrittenCluster * layout.cluster, IoVector(data.data(), data.size())))
          .has_value();
  good &= (co_await image.flush()).has_value();
  good &= (co_await (*opened)->close()).has_value();
  co_return good;
}

Contents but_for_what_was_written(Contents contents, Layout layout) {
  std::fill_n(
      contents.disks[0].begin() + static_cast<std::ptrdiff_t>(kWrittenCluster * layout.cluster),
      layout.cluster, std::byte{0});
  return contents;
}

void fail_each(Layout layout, unsigned requests, int error, uint64_t times = 1) {
  for (uint64_t skip = 0;; ++skip) {
    sim::SimEnv env(skip + 1);
    env.run(prepare(env, layout));
    const Contents contents = but_for_what_was_written(env.run(read_all(env, layout)), layout);
    sim::FaultRule rule;
    rule.requests = requests;
    rule.skip = skip;
    rule.times = times;
    rule.error = error;
    const auto id = env.storage().add_fault(rule);
    const bool good = env.run(attempt(env, layout));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    const std::string where = fmt::format("fault {}", skip);
    const Judged judged = env.run(judge(env, where));
    EXPECT_EQ(but_for_what_was_written(env.run(read_all(env, layout)), layout), contents) << where;
    if (judged.version == 3) {
      // It is done when it is tried again.
      EXPECT_TRUE(env.run(attempt(env, layout))) << where;
      EXPECT_EQ(env.run(judge(env, where)).version, 2u) << where;
      EXPECT_EQ(but_for_what_was_written(env.run(read_all(env, layout)), layout), contents)
          << where;
    }
    if (::testing::Test::HasFailure()) return;
    if (!hit) {
      EXPECT_TRUE(good);
      EXPECT_EQ(judged.leaks, 0u);
      EXPECT_GT(skip, 5u);
      return;
    }
  }
}

TEST(Qcow2Downgrade, WritesThatFail) { fail_each({512, true, false}, sim::kSimWrite, EIO); }
TEST(Qcow2Downgrade, WritesThatFailTwiceInARow) {
  fail_each({512, true, false}, sim::kSimWrite, EIO, 2);
}
TEST(Qcow2Downgrade, WritesWithoutSpace) { fail_each({1024, true, false}, sim::kSimWrite, ENOSPC); }
TEST(Qcow2Downgrade, ReadsThatFail) { fail_each({512, true, false}, sim::kSimRead, EIO); }
TEST(Qcow2Downgrade, FlushesThatFail) { fail_each({512, true, false}, sim::kSimFlush, EIO); }

// --- what becomes of places

Task<ImageStatus> status_of(Env& env, Layout layout, std::size_t index, uint64_t cluster) {
  auto opened = co_await open_image(env, "disk", MetadataOptions(), backing_of(layout));
  EXPECT_TRUE(opened);
  if (!opened) co_return ImageStatus();
  EXPECT_TRUE(co_await (*opened)->image->show_snapshot(index));
  auto status = co_await (*opened)->image->status(cluster * layout.cluster, layout.cluster);
  EXPECT_TRUE(status);
  EXPECT_TRUE(co_await (*opened)->close());
  co_return status.value_or(ImageStatus());
}

TEST(Qcow2Downgrade, ZeroesKeepAPlaceThatIsTheirs) {
  const Layout layout;
  sim::SimEnv env(1);
  env.run(prepare(env, layout));
  // Disk and snapshot have it from one table that both refer to.
  const ImageStatus before = env.run(status_of(env, layout, 1, 64));
  EXPECT_EQ(before.kind, Kind::kZero);
  ASSERT_TRUE(before.host);
  // Data of the first snapshot, zeroes of the second.
  EXPECT_EQ(env.run(status_of(env, layout, 1, 0)).host, env.run(status_of(env, layout, 0, 0)).host);
  env.run(change(env, layout));
  const ImageStatus after = env.run(status_of(env, layout, 1, 64));
  EXPECT_EQ(after.kind, Kind::kData);
  EXPECT_EQ(after.host, before.host);
  EXPECT_EQ(env.run(status_of(env, layout, 1, 0)).kind, Kind::kUnallocated);
  EXPECT_EQ(env.run(status_of(env, layout, 0, 0)).kind, Kind::kData);
}

// --- what is refused

Task<std::string> refused(Env& env, AmendOptions options) {
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return "";
  auto done = co_await amend(*(*opened)->image, std::move(options));
  EXPECT_FALSE(done);
  EXPECT_TRUE(co_await (*opened)->close());
  co_return done ? "" : done.error().description;
}

Task<void> make_compressed_snapshot(Env& env) {
  CreateOptions create;
  create.size = uint64_t{1} << 20;
  create.compression = CompressionType::kZstd;
  EXPECT_TRUE(co_await create_image(env, "disk", create));
  auto opened = co_await open_image(env, "disk", writable_options());
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  Bytes data(image.geometry().cluster_size, std::byte{1});
  EXPECT_TRUE(co_await image.write_compressed(0, IoVector(data.data(), data.size())));
  co_await snapshot(image, "one", 0);
  co_await put(image, 0, 1, std::byte{2});
  EXPECT_TRUE(co_await (*opened)->close());
}

TEST(Qcow2Downgrade, ZstdThatOnlyASnapshotHas) {
  sim::SimEnv env(1);
  env.run(make_compressed_snapshot(env));
  AmendOptions options;
  options.version = 2;
  EXPECT_EQ(
      env.run(refused(env, options)),
      "Cannot downgrade an image with zstd compression type and existing compressed clusters");
}

TEST(Qcow2Downgrade, AnotherSizeThanASnapshotHas) {
  const Layout layout;
  sim::SimEnv env(1);
  env.run(prepare(env, layout));
  AmendOptions options;
  options.version = 2;
  options.size = kClusters * layout.cluster * 2;
  EXPECT_EQ(env.run(refused(env, options)), "Internal snapshots prevent downgrade of image");
}

}  // namespace
}  // namespace blockbed::qcow2::test
