// A disk that fills up: whatever room there is, what a request was told to have done is there after
// a flush and after the image was closed, and neither needs any room.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>

#include "block/formats/qcow2/check.h"
#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

// A file whose blocks take room when they are first written. One that is there is always written;
// a write that finds no room for a block has changed what lies before it.
class LimitedStorage final : public Storage {
 public:
  LimitedStorage(sim::SimEnv& env, uint64_t block) : env_(env), block_(block) {}

  Task<Result<void>> read(uint64_t offset, IoVector buffers) override {
    co_await wait();
    Bytes bytes(buffers.size());
    each(offset, bytes.size(), [&](uint64_t number, uint64_t inside, uint64_t done, uint64_t part) {
      const auto found = blocks_.find(number);
      if (found != blocks_.end()) {
        std::memcpy(bytes.data() + done, found->second.data() + inside, part);
      }
      return true;
    });
    buffers.copy_from(bytes.data());
    co_return Result<void>();
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers) override {
    Bytes bytes(buffers.size());
    buffers.copy_to(bytes.data());
    co_await wait();
    const bool all = each(offset, bytes.size(),
                          [&](uint64_t number, uint64_t inside, uint64_t done, uint64_t part) {
                            auto found = blocks_.find(number);
                            if (found == blocks_.end()) {
                              if (blocks_.size() >= room_) return false;
                              found = blocks_.emplace(number, Bytes(block_)).first;
                            }
                            std::memcpy(found->second.data() + inside, bytes.data() + done, part);
                            size_ = std::max(size_, offset + done + part);
                            return true;
                          });
    refused_ |= !all;
    co_return all ? Result<void>() : io_error(ENOSPC);
  }
  Task<Result<void>> zero(uint64_t, uint64_t, RequestFlags) override {
    co_return io_error(ENOTSUP);
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override {
    co_await wait();
    const uint64_t first = (offset + block_ - 1) / block_;
    const uint64_t last = (offset + length) / block_;
    if (first < last) blocks_.erase(blocks_.lower_bound(first), blocks_.lower_bound(last));
    co_return Result<void>();
  }
  Task<Result<void>> flush() override {
    co_await wait();
    co_return Result<void>();
  }
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions) override {
    size_ = length;
    blocks_.erase(blocks_.lower_bound((length + block_ - 1) / block_), blocks_.end());
    co_return Expected<void>();
  }
  Task<Result<uint64_t>> length() override { co_return size_; }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length) override {
    co_await wait();
    BlockStatus status;
    status.length = std::min(length, block_ - offset % block_);
    status.zero = !blocks_.contains(offset / block_);
    co_return status;
  }
  bool new_space_reads_zero() const override { return true; }

  // A copy whose blocks of nothing but zeroes are holes, as "cp --sparse=always" makes it, and
  // which has room for so many more.
  std::unique_ptr<LimitedStorage> sparse_copy(sim::SimEnv& env, uint64_t room) const {
    auto copy = std::make_unique<LimitedStorage>(env, block_);
    copy->size_ = size_;
    for (const auto& [number, content] : blocks_) {
      if (!all_zero(content.data(), block_)) copy->blocks_.emplace(number, content);
    }
    copy->room_ = copy->blocks_.size() + room;
    return copy;
  }
  // Another file's content, as if it had been copied here.
  void put(const std::string& content) {
    size_ = content.size();
    for (uint64_t at = 0; at < size_; at += block_) {
      Bytes block(block_);
      std::memcpy(block.data(), content.data() + at, std::min(block_, size_ - at));
      blocks_.emplace(at / block_, std::move(block));
    }
  }
  bool refused() const { return refused_; }

 private:
  template <typename Step>
  bool each(uint64_t offset, uint64_t length, Step step) const {
    for (uint64_t done = 0; done < length;) {
      const uint64_t inside = (offset + done) % block_;
      const uint64_t part = std::min(length - done, block_ - inside);
      if (!step((offset + done) / block_, inside, done, part)) return false;
      done += part;
    }
    return true;
  }
  // Some requests take time, so that others come between.
  Task<void> wait() {
    if (env_.chance().next() % 4 == 0) co_await env_.delay(1 + env_.chance().next() % 1000);
  }

  sim::SimEnv& env_;
  uint64_t block_;
  uint64_t room_ = UINT64_MAX;
  uint64_t size_ = 0;
  std::map<uint64_t, Bytes> blocks_;
  bool refused_ = false;
};

// The disk as a client knows it, by cluster: what its last request was told, or nothing when that
// failed.
using Known = std::map<uint64_t, std::optional<uint64_t>>;

struct Client {
  sim::SimEnv& env;
  Image& image;
  Known& known;

  uint64_t cluster() const { return image.geometry().cluster_size; }
  void told(uint64_t at, const Result<void>& done, uint64_t value) {
    if (!done) EXPECT_EQ(done.error().number(), ENOSPC);
    known[at] = done ? std::optional(value) : std::nullopt;
  }
  Bytes pattern(uint64_t value) const {
    Bytes data(cluster());
    for (std::size_t i = 0; i < data.size(); i += 8) std::memcpy(data.data() + i, &value, 8);
    return data;
  }
  Task<void> write(uint64_t at, uint64_t value) {
    Bytes data = pattern(value);
    told(at, co_await image.write(at * cluster(), IoVector(data.data(), data.size())), value);
  }
  Task<void> compressed(uint64_t at, uint64_t value) {
    Bytes data = pattern(value);
    told(at, co_await image.write_compressed(at * cluster(), IoVector(data.data(), data.size())),
         value);
  }
  Task<void> zero(uint64_t at, bool unmap) {
    RequestFlags flags;
    flags.may_unmap = unmap;
    told(at, co_await image.zero(at * cluster(), cluster(), flags), 0);
  }
  Task<void> discard(uint64_t at) {
    told(at, co_await image.discard(at * cluster(), cluster()), 0);
  }
};

using Script = std::function<Task<void>(Client&)>;

struct Scene {
  CreateOptions create;
  uint64_t block = 4096;
  MetadataOptions options = writable_options();
  // Clusters that are in use (leaked) before: they fill the counts.
  uint64_t used = 0;
  Script before;
  Script script;
  uint64_t most_rooms = 4000;
};

Task<std::unique_ptr<Image>> open_on(sim::SimEnv& env, Storage& storage, Backing& backing,
                                     MetadataOptions options) {
  auto header = co_await read_header(storage, options.writable);
  EXPECT_TRUE(header);
  auto image = std::make_unique<Image>(env, storage, nullptr, backing, std::move(*header), options);
  EXPECT_TRUE(co_await image->open());
  co_return image;
}

Task<void> run_scripts(sim::SimEnv& env, Storage& storage, const Scene& scene, const Script& script,
                       uint64_t used, Known& known) {
  MemoryBacking backing;
  auto image = co_await open_on(env, storage, backing, scene.options);
  EXPECT_TRUE(co_await image->begin_writing());
  for (uint64_t left = used; left > 0;) {
    MutexGuard guard = co_await image->metadata().lock();
    const uint64_t part = std::min<uint64_t>(left, 16);
    EXPECT_TRUE(co_await image->metadata().allocate(part, "cluster"));
    left -= part;
  }
  Client client{env, *image, known};
  if (script) co_await script(client);
  auto flushed = co_await image->flush();
  EXPECT_TRUE(flushed) << "flush: " << flushed.error().number();
  auto closed = co_await image->close();
  EXPECT_TRUE(closed) << "close: " << closed.error().number();
}

Task<void> prepare(sim::SimEnv& env, Storage& storage, const Scene& scene, Known& known) {
  auto made = co_await create(env, storage, nullptr, scene.create);
  EXPECT_TRUE(made) << made.error().description;
  if (made) co_await run_scripts(env, storage, scene, scene.before, scene.used, known);
}

Task<void> judge(sim::SimEnv& env, Storage& storage, const Known& known) {
  auto header = co_await read_header(storage, false);
  EXPECT_TRUE(header);
  if (!header) co_return;
  EXPECT_FALSE(header->has(incompatible::kDirty));
  auto report = co_await check_image(storage, *header);
  EXPECT_TRUE(report);
  if (report) EXPECT_EQ(report->corruptions, 0u) << report->describe();
  MemoryBacking backing;
  auto image = co_await open_on(env, storage, backing, MetadataOptions());
  const Client client{env, *image, const_cast<Known&>(known)};
  for (const auto& [at, value] : known) {
    if (!value) continue;
    Bytes data(client.cluster());
    EXPECT_TRUE(co_await image->read(at * data.size(), IoVector(data.data(), data.size())));
    EXPECT_TRUE(data == client.pattern(*value)) << "cluster " << at << " is not " << *value;
    if (::testing::Test::HasFailure()) break;
  }
  EXPECT_TRUE(co_await image->close());
}

// From no room at all to room for everything.
void at_every_room_from(const LimitedStorage& start, const Scene& scene,
                        const Known& known_before) {
  uint64_t room = 0;
  for (;; ++room) {
    ASSERT_LT(room, scene.most_rooms);
    sim::SimEnv env(room + 1);
    auto storage = start.sparse_copy(env, room);
    Known known = known_before;
    env.run(run_scripts(env, *storage, scene, scene.script, 0, known));
    env.run(judge(env, *storage, known));
    ASSERT_FALSE(::testing::Test::HasFailure()) << "room for " << room << " blocks";
    if (!storage->refused()) break;
  }
  EXPECT_GT(room, 0u);
}

void at_every_room(const Scene& scene) {
  sim::SimEnv env(1);
  LimitedStorage start(env, scene.block);
  Known known;
  env.run(prepare(env, start, scene, known));
  ASSERT_FALSE(::testing::Test::HasFailure());
  at_every_room_from(start, scene, known);
}

CreateOptions options(uint64_t cluster, uint32_t bits, uint64_t clusters) {
  CreateOptions o;
  o.cluster_size = cluster;
  o.refcount_bits = bits;
  o.size = clusters * cluster;
  return o;
}

// Clusters that lie in different pieces of the tables.
uint64_t stride(const CreateOptions& create) {
  return std::min<uint64_t>(create.cluster_size, kDefaultL2PieceBytes) / 8;
}

enum class Way { kPlain, kCompressed, kZero, kMixed };

Script spread(Way way, uint64_t step, uint64_t count) {
  return [way, step, count](Client& client) -> Task<void> {
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t at = i * step;
      switch (way == Way::kMixed ? static_cast<Way>(i % 3) : way) {
        case Way::kPlain:
          co_await client.write(at, i + 1);
          break;
        case Way::kCompressed:
          co_await client.compressed(at, i + 1);
          break;
        default:
          co_await client.zero(at, i % 2 == 0);
      }
    }
  };
}

class Qcow2FullDisk : public ::testing::TestWithParam<std::tuple<uint64_t, uint32_t>> {
 protected:
  Scene scene(uint64_t pieces) {
    const auto [cluster, bits] = GetParam();
    Scene made;
    made.create = options(cluster, bits, 1);
    made.create.size = pieces * stride(made.create) * cluster;
    return made;
  }
};

TEST_P(Qcow2FullDisk, PlainWrites) {
  Scene s = scene(6);
  s.script = spread(Way::kPlain, stride(s.create), 6);
  at_every_room(s);
}

TEST_P(Qcow2FullDisk, CompressedWrites) {
  Scene s = scene(16);
  s.script = spread(Way::kCompressed, stride(s.create), 16);
  at_every_room(s);
}

TEST_P(Qcow2FullDisk, Zeroes) {
  Scene s = scene(12);
  s.script = spread(Way::kZero, stride(s.create), 12);
  at_every_room(s);
}

TEST_P(Qcow2FullDisk, SmallCaches) {
  Scene s = scene(9);
  s.options.l2_pieces = s.options.refcount_pieces = 2;
  s.options.discard_request = true;
  s.script = spread(Way::kMixed, stride(s.create), 9);
  at_every_room(s);
}

TEST_P(Qcow2FullDisk, LazyCounts) {
  Scene s = scene(6);
  s.create.lazy_refcounts = true;
  s.options.lazy_refcounts = true;
  s.script = spread(Way::kMixed, stride(s.create), 6);
  at_every_room(s);
}

// Clusters are given back and others taken, in all kinds of order and at the same time.
TEST_P(Qcow2FullDisk, DiscardsAndRewrites) {
  Scene s = scene(4);
  s.options.discard_request = true;
  s.block = std::min<uint64_t>(4096, s.create.cluster_size);
  s.options.reuse_bytes = 2 * s.create.cluster_size;
  const uint64_t step = stride(s.create) / 2;
  s.before = spread(Way::kMixed, step, 8);
  s.script = [step](Client& client) -> Task<void> {
    for (uint64_t round = 0; round < 2; ++round) {
      Gate gate(client.env.executor());
      gate.spawn(client.discard(0));
      gate.spawn(client.compressed(step, 100 + round));
      gate.spawn(client.write(3 * step, 110 + round));
      gate.spawn(client.zero(4 * step, true));
      gate.spawn(client.write(2 * step, 120 + round));
      co_await gate.close();
      co_await client.write(7 * step + 1, 130 + round);
      co_await client.discard(step);
      co_await client.compressed(4 * step, 140 + round);
      co_await client.write(1, 150 + round);
      co_await client.discard(5 * step);
      co_await client.write(5 * step + 2, 160 + round);
    }
  };
  at_every_room(s);
}

INSTANTIATE_TEST_SUITE_P(Every, Qcow2FullDisk,
                         ::testing::Combine(::testing::Values(512, 4096, 65536),
                                            ::testing::Values(1, 2, 4, 8, 16, 32, 64)),
                         [](const auto& at) {
                           return fmt::format("Clusters{}Counts{}", std::get<0>(at.param),
                                              std::get<1>(at.param));
                         });

// What is placed, one table after the other. The copies are sparse, so nothing but what was written
// as zeroes by the script itself has room.

TEST(Qcow2FullDiskTables, L1Sectors) {
  Scene s;
  s.create = options(512, 16, 64 * 64 * 8);
  s.block = 512;
  s.script = spread(Way::kMixed, 64 * 64, 8);
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, RefcountPieces) {
  // The counts of the second piece of the first block.
  Scene s;
  s.create = options(65536, 64, 64);
  s.used = 2040;
  s.script = [](Client& client) -> Task<void> {
    for (uint64_t at = 0; at < 12; ++at) {
      MutexGuard guard = co_await client.image.metadata().lock();
      auto taken = co_await client.image.metadata().allocate(1, "cluster");
      if (!taken) EXPECT_EQ(taken.error().number(), ENOSPC);
    }
    for (uint64_t at = 0; at < 12; ++at) co_await client.compressed(at, at + 1);
  };
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, PartsOfRefcountPieces) {
  // 64 counts are a block of the file, a piece has eight.
  Scene s;
  s.create = options(4096, 64, 256);
  s.block = 512;
  s.used = 50;
  s.script = [](Client& client) -> Task<void> {
    for (uint64_t at = 0; at < 20; ++at) co_await client.write(at, at + 1);
  };
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, PartsOfMapPieces) {
  // 64 entries are a block of the file, a piece has eight times as many.
  Scene s;
  s.create = options(4096, 16, 512);
  s.block = 512;
  s.before = spread(Way::kPlain, 512, 1);
  s.script = spread(Way::kMixed, 64, 8);
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, CountsThatFall) {
  // What is freed was counted in a part of a piece that has room, beside one that has none.
  Scene s;
  s.create = options(4096, 64, 512);
  s.block = 512;
  s.before = spread(Way::kPlain, 64, 8);
  s.script = [](Client& client) -> Task<void> {
    for (uint64_t i = 0; i < 8; ++i) co_await client.discard(i * 64);
  };
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, RefcountTableSectors) {
  // A sector of the table is 64 entries, an entry 512 clusters.
  Scene s;
  s.create = options(4096, 64, 64);
  s.block = 512;
  s.used = 64 * 512 - 70;
  s.script = spread(Way::kMixed, 1, 48);
  at_every_room(s);
}

TEST(Qcow2FullDiskTables, RefcountTableGrows) {
  Scene s;
  s.create = options(512, 64, 512);
  s.used = 64 * 64 - 150;
  s.script = spread(Way::kPlain, 1, 120);
  at_every_room(s);
}

// A disk that is written as a whole, some of it compressed, in steps that share a table or do not.
Scene whole_disk(CreateOptions create, uint64_t step) {
  Scene s;
  s.create = create;
  s.options.lazy_refcounts = create.lazy_refcounts;
  const uint64_t clusters = create.size / create.cluster_size;
  s.script = [step, clusters](Client& client) -> Task<void> {
    for (uint64_t i = 0; i < clusters; ++i) {
      const uint64_t at = i * step % clusters;
      if (i % 5 == 4) {
        co_await client.compressed(at, i + 1);
      } else {
        co_await client.write(at, i + 1);
      }
    }
  };
  return s;
}

TEST(Qcow2FullDiskWhole, InOrder) { at_every_room(whole_disk(options(4096, 16, 160), 1)); }
TEST(Qcow2FullDiskWhole, ManyTables) { at_every_room(whole_disk(options(512, 16, 1000), 67)); }
TEST(Qcow2FullDiskWhole, ManyBlocks) { at_every_room(whole_disk(options(512, 64, 600), 67)); }
TEST(Qcow2FullDiskWhole, LazyCounts) {
  CreateOptions create = options(512, 16, 400);
  create.lazy_refcounts = true;
  at_every_room(whole_disk(create, 67));
}
TEST(Qcow2FullDiskWhole, LargeClusters) { at_every_room(whole_disk(options(65536, 64, 16), 7)); }

// Beside a snapshot every change copies a table or a cluster first, and counts fall to one.
class Qcow2FullDiskSnapshot : public ToolTest {};

TEST_F(Qcow2FullDiskSnapshot, WhatItHoldsIsCopied) {
  for (const uint64_t cluster : {512, 4096, 65536}) {
    for (uint32_t bits = 2; bits <= 64; bits *= 2) {
      SCOPED_TRACE(fmt::format("clusters of {}, counts of {}", cluster, bits));
      Scene s;
      s.create = options(cluster, bits, 1);
      const uint64_t step = stride(s.create);
      s.options.discard_request = true;
      s.options.reuse_bytes = 2 * cluster;
      s.script = [step](Client& client) -> Task<void> {
        co_await client.write(0, 1);
        co_await client.discard(1);
        co_await client.compressed(step, 2);
        co_await client.write(2 * step, 3);
        co_await client.discard(2 * step);
        co_await client.zero(3 * step, true);
        co_await client.write(3 * step + 1, 4);
        co_await client.write(1, 5);
        co_await client.compressed(0, 6);
      };
      std::string fill;
      for (uint64_t i = 0; i < 4; ++i) {
        fill += fmt::format(" -c 'write -q -P 9 {} {}'", i * step * cluster, 2 * cluster);
      }
      tool(
          fmt::format("qemu-img create -q -f qcow2 -o cluster_size={},refcount_bits={} d {} && "
                      "qemu-io -f qcow2 {} d && qemu-img snapshot -c s d",
                      cluster, bits, 4 * step * cluster, fill));
      sim::SimEnv env(1);
      LimitedStorage start(env, s.block);
      start.put(slurp(path("d")));
      at_every_room_from(start, s, {});
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
