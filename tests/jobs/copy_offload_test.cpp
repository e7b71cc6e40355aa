// Copies inside the host between images: bytes that no reader and no writer sees end up where they
// belong, whatever the clusters of both sides are.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/qcow2/driver.h"
#include "tests/jobs/image_chain_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::GoldenDisk;
using test::ImageChain;
using test::kKiB;
using test::kMiB;
using test::World;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kSector = 512;

qcow2::CreateOptions image(uint64_t size, uint64_t cluster) {
  qcow2::CreateOptions create;
  create.size = size;
  create.cluster_size = cluster;
  return create;
}

Node& open_image(World& world, const std::string& name) {
  return world.open(json::Object{{"driver", "qcow2"},
                                 {"node-name", "node-" + name},
                                 {"discard", "unmap"},
                                 {"file", json::Object{{"driver", "file"}, {"filename", name}}}});
}

Node& make_image(World& world, const std::string& name, const qcow2::CreateOptions& create) {
  const auto made =
      world.run(qcow2::test::create_image(world.env, name, create, create.data_file_name));
  EXPECT_TRUE(made.has_value()) << made.error().description;
  return open_image(world, name);
}

Bytes content(World& world, Node& node) {
  Bytes bytes(node.length());
  EXPECT_TRUE(world.run(node.read(0, IoVector(bytes.data(), bytes.size()))).has_value());
  return bytes;
}

void put(World& world, Node& node, uint64_t offset, uint64_t length, unsigned char byte,
         RequestFlags flags = {}) {
  Buffer buffer(length);
  buffer.io().fill(byte);
  auto guest = world.guest(node);
  EXPECT_TRUE(world.run(guest->write(offset, buffer.io(), flags)).has_value());
  world.run(guest->remove());
}

void zero(World& world, Node& node, uint64_t offset, uint64_t length) {
  auto guest = world.guest(node);
  EXPECT_TRUE(world.run(guest->zero(offset, length)).has_value());
  world.run(guest->remove());
}

Result<void> copy(World& world, Node& source, Node& target, uint64_t offset, uint64_t length) {
  auto from = world.guest(source);
  auto to = world.guest(target);
  auto done = world.run(from->edge().copy_range_to(offset, length, to->edge(), offset, {}));
  world.run(from->remove());
  world.run(to->remove());
  return done;
}

class CopyOffload : public testing::Test {
 public:
  CopyOffload() : world(1) {}

  uint64_t copies() { return world.env.storage().requests(sim::kSimCopy); }
  uint64_t reads() { return world.env.storage().requests(sim::kSimRead); }

  void backup(Node& source, Node& target) {
    BackupOptions options = world.options("j", source, target);
    options.use_copy_range = true;
    auto job = world.run(world.backup(std::move(options)));
    ASSERT_TRUE(job.has_value());
    world.run(world.wait_for_end(*job));
  }

  World world;
};

TEST_F(CopyOffload, ABackupOfAnImageMovesNoByteThroughMemory) {
  Node& source = make_image(world, "s", image(4 * kMiB, 64 * kKiB));
  put(world, source, 0, 4 * kMiB, 7);
  Node& target = make_image(world, "t", image(4 * kMiB, 64 * kKiB));
  const uint64_t before = reads();
  backup(source, target);
  EXPECT_EQ(copies(), 4u);
  // What is read is tables.
  EXPECT_LT(reads() - before, 4u);
  EXPECT_EQ(content(world, target), content(world, source));
}

TEST_F(CopyOffload, ABackupGoesFromAnImageToARawDiskAndBack) {
  Node& source = make_image(world, "s", image(2 * kMiB, 64 * kKiB));
  put(world, source, 0, kMiB, 7);
  sim::SparseBytes empty;
  empty.resize(2 * kMiB);
  Node& raw = world.open(json::Object{
      {"driver", "raw"}, {"node-name", "raw"}, {"file", world.file("r", std::move(empty)).name()}});
  backup(source, raw);
  EXPECT_EQ(copies(), 1u);
  EXPECT_EQ(content(world, raw), content(world, source));
  Node& target = make_image(world, "t", image(2 * kMiB, 64 * kKiB));
  backup(raw, target);
  EXPECT_GT(copies(), 1u);
  EXPECT_EQ(content(world, target), content(world, source));
}

TEST_F(CopyOffload, WhatIsRefusedIsReadAndWritten) {
  sim::SimAbilities abilities;
  abilities.copy = false;
  world.env.storage().set_abilities(abilities);
  Node& source = make_image(world, "s", image(4 * kMiB, 64 * kKiB));
  put(world, source, 0, 4 * kMiB, 7);
  Node& target = make_image(world, "t", image(4 * kMiB, 64 * kKiB));
  backup(source, target);
  EXPECT_EQ(content(world, target), content(world, source));
  world.run(world.drop(target));
  // What had been allocated for the copy was given back.
  world.run(qcow2::test::expect_sound(world.env, "t", true));
}

TEST_F(CopyOffload, CompressedClustersAreRead) {
  Node& source = make_image(world, "s", image(256 * kKiB, 64 * kKiB));
  RequestFlags flags;
  flags.compressed = true;
  put(world, source, 64 * kKiB, 64 * kKiB, 7, flags);
  Node& target = make_image(world, "t", image(256 * kKiB, 64 * kKiB));
  const Result<void> done = copy(world, source, target, 0, 256 * kKiB);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().number(), ENOTSUP);
  backup(source, target);
  EXPECT_EQ(content(world, target), content(world, source));
}

// What reads as zeroes is no copy, and hides what the target had.
TEST_F(CopyOffload, ZeroesAreZeroes) {
  Node& source = make_image(world, "s", image(256 * kKiB, 64 * kKiB));
  put(world, source, 0, 256 * kKiB, 7);
  zero(world, source, 64 * kKiB, 64 * kKiB);
  auto guest = world.guest(source);
  EXPECT_TRUE(world.run(guest->discard(128 * kKiB, 64 * kKiB)).has_value());
  world.run(guest->remove());
  Node& target = make_image(world, "t", image(256 * kKiB, 64 * kKiB));
  put(world, target, 0, 256 * kKiB, 9);
  EXPECT_TRUE(copy(world, source, target, 64 * kKiB, 128 * kKiB).has_value());
  EXPECT_EQ(copies(), 0u);
  Bytes expected(256 * kKiB, std::byte{9});
  std::fill_n(expected.begin() + 64 * kKiB, 128 * kKiB, std::byte{0});
  EXPECT_EQ(content(world, target), expected);
}

// The bytes come from the layer that has them, and a short one ends in zeroes.
TEST_F(CopyOffload, WhatShowsThroughIsCopiedFromBelow) {
  ImageChain chain(world, {image(96 * kKiB + kSector, 16 * kKiB), image(256 * kKiB, 16 * kKiB)});
  GoldenDisk golden(256 * kKiB);
  chain.make(golden);
  Node& below = world.open(json::Object{chain.definition(0)});
  put(world, below, 0, below.length(), 3);
  world.run(world.drop(below));
  Node& source = world.open(json::Object{chain.definition(1)});
  EXPECT_TRUE(world.run(source.driver().make_empty()).has_value());
  Node& target = make_image(world, "t", image(256 * kKiB, 64 * kKiB));
  put(world, target, 0, 256 * kKiB, 9);
  EXPECT_TRUE(copy(world, source, target, 0, 256 * kKiB).has_value());
  EXPECT_GT(copies(), 0u);
  Bytes expected(256 * kKiB);
  std::fill_n(expected.begin(), 96 * kKiB + kSector, std::byte{3});
  EXPECT_EQ(content(world, target), expected);
}

// Any ranges between any images: the target shows what was copied and else what it had,
// however its clusters are shared, and the source is as before.
struct Sides {
  const char* name;
  uint64_t source_cluster;
  uint64_t target_cluster;
  bool extended = false;
  bool data_file = false;
};

void copy_at_random(uint64_t seed, const Sides& sides) {
  constexpr uint64_t kSize = kMiB;
  World world(seed);
  sim::SimRandom& chance = world.env.chance();
  ImageChain chain(world,
                   {image(kSize / 2 + kSector, 4 * kKiB), image(kSize, sides.source_cluster)});
  GoldenDisk golden(kSize);
  chain.make(golden);
  Node& source = world.open(json::Object{chain.definition(1)});
  qcow2::CreateOptions create = image(kSize, sides.target_cluster);
  create.extended_l2 = sides.extended;
  create.data_file = sides.data_file;
  if (sides.data_file) create.data_file_name = "data";
  Node& target = make_image(world, "t", create);
  auto& images = dynamic_cast<qcow2::Qcow2Driver&>(target.driver()).image();
  auto some = [&] { return chance.below(kSize / kSector) * kSector; };
  for (int i = 0; i < 12; ++i) {
    const uint64_t at = some();
    const uint64_t length = std::min((chance.below(256) + 1) * kSector, kSize - at);
    if (chance.percent(25)) {
      zero(world, target, at, length);
    } else {
      put(world, target, at, length, static_cast<unsigned char>(200 + i));
    }
    if (i == 6 && !sides.data_file) {
      EXPECT_TRUE(world.run(images.create_snapshot({})).has_value());
    }
  }
  const Bytes before = content(world, source);
  Bytes expected = content(world, target);
  auto from = world.guest(source);
  auto to = world.guest(target);
  int done = 0;
  for (int i = 0; i < 20; ++i) {
    const uint64_t at = some();
    const uint64_t length = std::min((chance.below(200) + 1) * kSector, kSize - at);
    const auto copied = world.run(from->edge().copy_range_to(at, length, to->edge(), at, {}));
    if (copied) {
      ++done;
    } else {
      ASSERT_EQ(copied.error().number(), ENOTSUP);
      Bytes bytes(length);
      EXPECT_TRUE(world.run(from->read(at, IoVector(bytes.data(), length))).has_value());
      EXPECT_TRUE(world.run(to->write(at, IoVector(bytes.data(), length))).has_value());
    }
    std::copy_n(before.begin() + static_cast<std::ptrdiff_t>(at), length,
                expected.begin() + static_cast<std::ptrdiff_t>(at));
    ASSERT_TRUE(content(world, target) == expected)
        << "copy " << i << " of " << length << " at " << at;
  }
  EXPECT_GT(done, 0);
  EXPECT_TRUE(content(world, source) == before);
  world.run(from->remove());
  world.run(to->remove());
  world.run(world.drop(target));
  world.run(qcow2::test::expect_sound(world.env, "t", true));
}

class CopyOffloadBetween : public testing::TestWithParam<Sides> {};

TEST_P(CopyOffloadBetween, AnyRange) {
  sim::for_each_seed(8, [](uint64_t seed) { copy_at_random(seed, GetParam()); });
}

INSTANTIATE_TEST_SUITE_P(Each, CopyOffloadBetween,
                         testing::Values(Sides{"Equal", 16 * kKiB, 16 * kKiB},
                                         Sides{"ToLarge", 4 * kKiB, 64 * kKiB},
                                         Sides{"ToSmall", 64 * kKiB, 512},
                                         Sides{"ToSubclusters", 16 * kKiB, 64 * kKiB, true},
                                         Sides{"ToDataFile", 16 * kKiB, 16 * kKiB, false, true}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace blockbed
