// Dirty bitmaps of a node: what is marked, what is refused, what a job sees.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "block/graph/backend.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

using test::MemoryDisk;

constexpr uint64_t kLength = (1 << 20) + 1536;
constexpr uint64_t kUnit = 4096;
constexpr PermissionPair kReadWrite{
    Permission::kConsistentRead | Permission::kWrite | Permissions(Permission::kResize),
    Permissions::all()};

// A bool for every byte that matters: every sector.
class Model {
 public:
  explicit Model(uint64_t granularity) : granularity_(granularity) {}
  void resize(uint64_t length) {
    pieces_.resize((length + granularity_ - 1) / granularity_, false);
  }
  void mark(uint64_t offset, uint64_t length) {
    for (uint64_t at = offset; at < offset + length; at += 512) pieces_[at / granularity_] = true;
  }
  void expect(const DirtyBitmap& bitmap) const {
    ASSERT_EQ(bitmap.bits().size(), pieces_.size());
    for (uint64_t i = 0; i < pieces_.size(); ++i) {
      ASSERT_EQ(bitmap.bits().test(i), pieces_[i]) << "piece " << i << " of " << granularity_;
    }
  }
  std::vector<bool>& pieces() { return pieces_; }

 private:
  uint64_t granularity_;
  std::vector<bool> pieces_;
};

class DirtyBitmapTest : public testing::Test {
 public:
  DirtyBitmapTest() {
    disk.bytes.resize(kLength);
    registry.add(test::memory_entry(disk));
    graph.emplace(env, events, registry);
    Graph::OpenRequest request;
    request.options.set("driver", "null-co");
    request.options.set("node-name", "disk");
    request.options.set("discard", "unmap");
    auto opened = env.run_until_complete(graph->open(std::move(request)));
    if (!opened) ADD_FAILURE() << opened.error().description;
    backend.emplace(*graph, "", kReadWrite);
    EXPECT_TRUE(backend->insert(**opened));
    node = &**opened;
  }
  ~DirtyBitmapTest() override { env.run_until_complete(finish()); }

  Task<void> finish() {
    co_await backend->remove();
    backend.reset();
    co_await graph->shutdown();
    graph.reset();
  }

  DirtyBitmap& create(const char* name, uint64_t granularity = kUnit) {
    auto created = node->dirty_bitmaps().create(name, granularity, node->length());
    if (!created) ADD_FAILURE() << created.error().description;
    return **created;
  }
  Result<void> write(uint64_t offset, std::size_t length, RequestFlags flags = {}) {
    return env.run_until_complete(backend->write(offset, Buffer::zeroed(length).io(), flags));
  }
  std::string refusal(std::string name, uint64_t granularity = kUnit) {
    auto created = node->dirty_bitmaps().create(std::move(name), granularity, node->length());
    return created ? "none" : created.error().description;
  }

  ProductionEnv env;
  test::RecordedEvents events;
  MemoryDisk disk;
  DriverRegistry registry;
  std::optional<Graph> graph;
  std::optional<Backend> backend;
  Node* node = nullptr;
};

TEST_F(DirtyBitmapTest, WritesZeroesAndDiscardsAreMarked) {
  std::mt19937_64 random(3);
  std::vector<std::pair<DirtyBitmap*, Model>> bitmaps;
  for (const uint64_t granularity : {512u, 4096u, 65536u, 1u << 24}) {
    bitmaps.emplace_back(&create(std::to_string(granularity).c_str(), granularity),
                         Model(granularity));
    bitmaps.back().second.resize(kLength);
  }
  for (int i = 0; i < 200; ++i) {
    const uint64_t offset = random() % (kLength / 512) * 512;
    const uint64_t length = std::min<uint64_t>(512 * (1 + random() % 40), kLength - offset);
    switch (random() % 3) {
      case 0:
        EXPECT_TRUE(write(offset, length));
        break;
      case 1:
        EXPECT_TRUE(env.run_until_complete(backend->zero(offset, length)));
        break;
      default:
        EXPECT_TRUE(env.run_until_complete(backend->discard(offset, length)));
    }
    for (auto& [bitmap, model] : bitmaps) model.mark(offset, length);
  }
  for (auto& [bitmap, model] : bitmaps) model.expect(*bitmap);
}

TEST_F(DirtyBitmapTest, AFailedWriteIsMarked) {
  DirtyBitmap& bitmap = create("b");
  disk.next_write_error = EIO;
  EXPECT_FALSE(write(0, 512));
  EXPECT_EQ(bitmap.count(), kUnit);
}

TEST_F(DirtyBitmapTest, ReadsAndUnchangedWritesAreNot) {
  DirtyBitmap& bitmap = create("b");
  Buffer buffer(4096);
  EXPECT_TRUE(env.run_until_complete(backend->read(0, buffer.io())));
  EXPECT_TRUE(write(0, 4096, RequestFlags().with_write_unchanged()));
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST_F(DirtyBitmapTest, ADisabledOneTakesNoMarks) {
  DirtyBitmap& bitmap = create("b");
  bitmap.set_enabled(false);
  EXPECT_TRUE(write(0, 4096));
  EXPECT_EQ(bitmap.count(), 0u);
  bitmap.set_enabled(true);
  EXPECT_TRUE(write(0, 4096));
  EXPECT_EQ(bitmap.count(), kUnit);
}

TEST_F(DirtyBitmapTest, FollowsTheLength) {
  DirtyBitmap& bitmap = create("b");
  EXPECT_TRUE(write(1 << 20, 512));
  EXPECT_EQ(bitmap.next_dirty(0), uint64_t{1} << 20);
  EXPECT_EQ(bitmap.next_clean(1 << 20), kLength) << "the last piece is shorter";
  ASSERT_TRUE(env.run_until_complete(backend->truncate(1 << 20, TruncateOptions())));
  EXPECT_EQ(bitmap.length(), uint64_t{1} << 20);
  EXPECT_EQ(bitmap.count(), 0u);
  ASSERT_TRUE(env.run_until_complete(backend->truncate(2 << 20, TruncateOptions())));
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_TRUE(write((2 << 20) - 512, 512));
  EXPECT_EQ(bitmap.next_dirty(0), (uint64_t{2} << 20) - kUnit);
}

TEST_F(DirtyBitmapTest, WhatIsFrozenStaysAsItIs) {
  DirtyBitmap& bitmap = create("b");
  for (const bool keep : {false, true}) {
    bitmap.clear();
    EXPECT_TRUE(write(0, 512));
    node->dirty_bitmaps().freeze(bitmap);
    EXPECT_TRUE(write(65536, 512));
    EXPECT_EQ(bitmap.count(), kUnit);
    if (keep) {
      node->dirty_bitmaps().thaw_keeping(bitmap);
    } else {
      node->dirty_bitmaps().thaw_dropping(bitmap);
    }
    EXPECT_EQ(std::ranges::distance(node->dirty_bitmaps()), 1);
    EXPECT_EQ(node->dirty_bitmaps().find("b"), &bitmap);
    EXPECT_EQ(bitmap.bits().test(0), keep);
    EXPECT_TRUE(bitmap.bits().test(65536 / kUnit));
    EXPECT_EQ(bitmap.bits().count(), keep ? 2u : 1u);
  }
}

TEST_F(DirtyBitmapTest, MergesAcrossGranularities) {
  std::mt19937_64 random(4);
  for (const uint64_t from : {512u, 4096u, 1u << 17}) {
    for (const uint64_t to : {512u, 4096u, 1u << 17}) {
      DirtyBitmap source(*node, "", kLength, from);
      DirtyBitmap target(*node, "", kLength, to);
      Model model(to);
      model.resize(kLength);
      for (int i = 0; i < 20; ++i) {
        const uint64_t offset = random() % (kLength / 512) * 512;
        DirtyBitmap& one = i % 2 == 0 ? source : target;
        one.set(offset, 512);
        const uint64_t unit = std::max<uint64_t>(i % 2 == 0 ? from : 512, 512);
        const uint64_t begin = offset / unit * unit;
        model.mark(begin, std::min(unit, kLength - begin));
      }
      target.merge(source);
      model.expect(target);
    }
  }
}

TEST_F(DirtyBitmapTest, MergesBetweenDisksThatEndInTheSameSector) {
  constexpr uint64_t kLengths[] = {65536 + 1000, 65536 + 1024, 65536 + 513};
  for (const uint64_t length : kLengths) {
    for (const uint64_t other_length : kLengths) {
      for (const uint64_t granularity : {512, 4096}) {
        for (const uint64_t other_granularity : {512, 1024, 4096}) {
          DirtyBitmap target(*node, "", length, granularity);
          DirtyBitmap source(*node, "", other_length, other_granularity);
          EXPECT_TRUE(source.check_same_disk(length).has_value());
          source.set(other_length - 1, 1);
          target.merge(source);
          EXPECT_TRUE(target.bits().test(target.bits().size() - 1));
          EXPECT_GE(target.count(), 512U);
          EXPECT_LE(target.count(), 4096U);
          EXPECT_EQ(source.check_same_disk(65536 + 1025).error().description,
                    "Bitmaps are of different sizes (destination size is 67072, source size is "
                    "66560) and can't be merged");
        }
      }
    }
  }
}

TEST_F(DirtyBitmapTest, NamesAreUniqueAndBounded) {
  create("b");
  EXPECT_EQ(refusal("b"), "Bitmap already exists: b");
  EXPECT_EQ(refusal(std::string(1023, 'x')), "none");
  EXPECT_EQ(refusal(std::string(1024, 'x')), "Bitmap name too long: " + std::string(1024, 'x'));
  EXPECT_EQ(refusal("c", 256), "Granularity must be power of 2 and at least 512");
  EXPECT_EQ(refusal("c", 513), "Granularity must be power of 2 and at least 512");
  EXPECT_EQ(refusal(""), "none") << "an image may have one";
  EXPECT_EQ(refusal(""), "Bitmap already exists: ");
}

TEST_F(DirtyBitmapTest, PiecesAreBounded) {
  DirtyBitmapList& list = node->dirty_bitmaps();
  constexpr uint64_t kLargest = Bitmap::kMaxBits * 512;
  const auto refused = list.create("huge", 512, kLargest + 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().description,
            "Too much memory would be taken by the bitmap 'huge'. Use larger granularity");
  const auto lost = list.create_inconsistent("lost", 512, kLargest + 1);
  ASSERT_TRUE(lost);
  EXPECT_TRUE((*lost)->inconsistent());
  const auto largest = list.create("largest", 512, kLargest);
  ASSERT_TRUE(largest);
  EXPECT_FALSE((*largest)->inconsistent());
  list.resize(kLargest + 1);
  EXPECT_TRUE((*largest)->inconsistent());
  list.resize(kLength);
  EXPECT_TRUE((*largest)->inconsistent() && (*lost)->inconsistent());
  EXPECT_TRUE(write(0, 512));
  EXPECT_EQ((*largest)->count(), 0u);
}

TEST_F(DirtyBitmapTest, ThoseWithoutNamesAreNotFound) {
  DirtyBitmapList& list = node->dirty_bitmaps();
  const auto one = list.create_without_name(kUnit, node->length());
  const auto other = list.create_without_name(kUnit, node->length());
  ASSERT_TRUE(one && other);
  EXPECT_EQ(list.find(""), nullptr);
  DirtyBitmap& named = create("");
  EXPECT_EQ(list.find(""), &named);
  list.remove(**one);
  EXPECT_EQ(list.find(""), &named);
  list.remove(named);
  EXPECT_EQ(list.find(""), nullptr);
  EXPECT_EQ(std::ranges::distance(list), 1);
}

TEST_F(DirtyBitmapTest, ManyAreFoundAndRemoved) {
  DirtyBitmapList& list = node->dirty_bitmaps();
  constexpr int kMany = 300;
  std::vector<DirtyBitmap*> made;
  for (int i = 0; i < kMany; ++i) made.push_back(&create(fmt::format("b{}", i).c_str()));
  std::ranges::shuffle(made, std::mt19937(1));
  for (int i = 0; i < kMany; ++i) {
    for (int j = 0; j < kMany; j += 17) {
      EXPECT_EQ(list.find(made[j]->name()), made[j]);
    }
    const std::string name = made.back()->name();
    EXPECT_EQ(refusal(name), "Bitmap already exists: " + name);
    list.remove(*made.back());
    EXPECT_EQ(list.find(name), nullptr);
    made.back() = &create(name.c_str());
    std::ranges::rotate(made, made.end() - 1);
  }
  EXPECT_EQ(std::ranges::distance(list), kMany);
}

TEST_F(DirtyBitmapTest, ChecksTellTheReason) {
  DirtyBitmap& bitmap = create("b");
  EXPECT_TRUE(bitmap.check());
  {
    const DirtyBitmap::Use use(bitmap);
    EXPECT_EQ(bitmap.check().error().description,
              "Bitmap 'b' is currently in use by another operation and cannot be used");
  }
  EXPECT_TRUE(bitmap.check());
  bitmap.set_inconsistent();
  EXPECT_EQ(bitmap.check().error().description, "Bitmap 'b' is inconsistent and cannot be used");
  EXPECT_TRUE(bitmap.check(DirtyBitmap::Accept::kInconsistent));
  EXPECT_TRUE(write(0, 512));
  EXPECT_EQ(bitmap.count(), 0u);
}

}  // namespace
}  // namespace blockbed
