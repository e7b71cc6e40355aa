// Every flush that an operation makes, left out: the rules of the order of writes that miss it.
//
// Each case is a transcript of one operation: what is behind each of its flushes, in their order,
// if that flush had not been. "" is one that no rule misses: what it made durable is durable again
// before anything relies on it, or nothing does.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>

#include "block/formats/qcow2/amend.h"
#include "block/formats/qcow2/bitmap_store.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/order_judge_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;
using Operation = std::function<Task<void>(OpenedImage&)>;

struct Transcript {
  const char* name;
  CreateOptions create;
  Operation before;
  Operation operation;
  std::vector<std::string> flushes;
  MetadataOptions options = writable_options();
};

CreateOptions sized(uint64_t cluster, uint64_t clusters) {
  CreateOptions create;
  create.cluster_size = cluster;
  create.size = clusters * cluster;
  return create;
}

constexpr uint64_t kCluster = 512;

Operation both(Operation first, Operation second) {
  return [=](OpenedImage& opened) -> Task<void> {
    co_await first(opened);
    co_await second(opened);
  };
}

// Without a flush.
Operation put(uint64_t first, uint64_t clusters) {
  return [=](OpenedImage& opened) -> Task<void> {
    Image& image = *opened.image;
    const uint64_t cluster = image.geometry().cluster_size;
    Bytes data(clusters * cluster, std::byte{0x5a});
    EXPECT_TRUE(co_await image.write(first * cluster, IoVector(data.data(), data.size())));
  };
}
Operation flush() {
  return [](OpenedImage& opened) -> Task<void> { EXPECT_TRUE(co_await opened.image->flush()); };
}
Operation write(uint64_t first, uint64_t clusters) { return both(put(first, clusters), flush()); }
Operation zero(uint64_t first, uint64_t clusters) {
  return [=](OpenedImage& opened) -> Task<void> {
    Image& image = *opened.image;
    const uint64_t cluster = image.geometry().cluster_size;
    EXPECT_TRUE(co_await image.zero(first * cluster, clusters * cluster, RequestFlags()));
    EXPECT_TRUE(co_await image.flush());
  };
}
Operation compress(uint64_t cluster) {
  return [=](OpenedImage& opened) -> Task<void> {
    Image& image = *opened.image;
    Bytes data(image.geometry().cluster_size, std::byte{0x77});
    EXPECT_TRUE(co_await image.write_compressed(cluster * image.geometry().cluster_size,
                                                IoVector(data.data(), data.size())));
    EXPECT_TRUE(co_await image.flush());
  };
}
Operation discard(uint64_t first, uint64_t clusters) {
  return [=](OpenedImage& opened) -> Task<void> {
    Image& image = *opened.image;
    const uint64_t cluster = image.geometry().cluster_size;
    EXPECT_TRUE(co_await image.discard(first * cluster, clusters * cluster));
    EXPECT_TRUE(co_await image.flush());
  };
}
Operation resize(uint64_t clusters) {
  return [=](OpenedImage& opened) -> Task<void> {
    Image& image = *opened.image;
    EXPECT_TRUE(
        co_await image.truncate(clusters * image.geometry().cluster_size, TruncateOptions()));
  };
}
Operation make_snapshot() {
  return [](OpenedImage& opened) -> Task<void> {
    Snapshot snapshot;
    snapshot.name = "s";
    EXPECT_TRUE(co_await opened.image->create_snapshot(snapshot));
  };
}
Operation apply_snapshot() {
  return [](OpenedImage& opened) -> Task<void> {
    EXPECT_TRUE(co_await opened.image->apply_snapshot(0));
  };
}
Operation delete_snapshot() {
  return [](OpenedImage& opened) -> Task<void> {
    EXPECT_TRUE(co_await opened.image->delete_snapshot(0));
  };
}
Operation amended(uint64_t refcount_bits, uint64_t version) {
  return [=](OpenedImage& opened) -> Task<void> {
    AmendOptions options;
    if (refcount_bits != 0) options.refcount_bits = refcount_bits;
    if (version != 0) options.version = version;
    auto done = co_await amend(*opened.image, options);
    EXPECT_TRUE(done) << done.error().description;
  };
}
Operation store(std::string name) {
  return [=](OpenedImage& opened) -> Task<void> {
    PlainBits bits(bits_needed(opened.image->length(), 9));
    bits.set(3, 20);
    BitmapToStore one;
    one.name = name;
    one.granularity_bits = 9;
    one.bits = &bits;
    auto done = co_await store_bitmaps(opened.image->metadata(), {one});
    EXPECT_TRUE(done) << done.error().description;
  };
}
Operation remove(std::string name) {
  return [=](OpenedImage& opened) -> Task<void> {
    EXPECT_TRUE(co_await remove_bitmap(opened.image->metadata(), name));
  };
}
Operation close() {
  return [](OpenedImage& opened) -> Task<void> { EXPECT_TRUE(co_await opened.image->close()); };
}
MetadataOptions lazy() {
  MetadataOptions options = writable_options();
  options.lazy_refcounts = true;
  return options;
}
MetadataOptions discarding() {
  MetadataOptions options = writable_options();
  options.discard_request = true;
  return options;
}
MetadataOptions keeping() {
  MetadataOptions options = discarding();
  options.discard_no_unref = true;
  return options;
}
CreateOptions wide(CreateOptions create) {
  create.refcount_bits = 64;
  return create;
}
CreateOptions lazy(CreateOptions create) {
  create.lazy_refcounts = true;
  return create;
}
CreateOptions beside(CreateOptions create) {
  create.data_file = true;
  create.data_file_name = "data";
  return create;
}

std::vector<Transcript> transcripts() {
  return {
      {"Write", sized(kCluster, 40), write(0, 1), write(1, 2), {"data written, data counted"}},
      {"WriteInNewTable", sized(kCluster, 100), write(0, 1), write(70, 2), {"", "table written"}},
      {"NewBlock",
       wide(sized(kCluster, 200)),
       write(0, 50),
       write(50, 10),
       {"block written, block counted", "counts linked"}},
      {"TableOfBlocksGrows",
       wide(sized(kCluster, 6000)),
       write(0, 3700),
       write(3700, 500),
       {"block written, block counted", "", "table written", "switch: written, switch: counted", "",
        "block written, block counted", "counts linked", "table written", ""}},
      {"WriteOverCompressed",
       sized(kCluster, 40),
       compress(0),
       write(0, 1),
       {"data written, data counted", "removed before uncounted"}},
      {"WriteOverShared",
       sized(kCluster, 40),
       both(write(0, 2), make_snapshot()),
       write(0, 1),
       {"", "table written", "removed before uncounted"}},
      {"Discard", sized(kCluster, 40), write(0, 4), discard(1, 2), {"removed before uncounted"}},
      {"DiscardInTheFile",
       sized(kCluster, 40),
       write(0, 4),
       discard(1, 2),
       {"removed before discard"},
       discarding()},
      {"DiscardThatKeepsItsPlace",
       sized(kCluster, 40),
       write(0, 4),
       discard(1, 2),
       {"removed before discard"},
       keeping()},
      {"DiscardAndReuse",
       sized(kCluster, 40),
       write(0, 40),
       both(both(discard(1, 20), write(1, 10)), write(11, 5)),
       {"removed before uncounted", "data written, data counted", "data written, data counted"}},
      {"LazyDiscardAndReuse",
       lazy(sized(kCluster, 40)),
       write(0, 40),
       both(both(discard(1, 20), write(1, 10)), write(11, 5)),
       {"removed before reuse", "", "", "data written"},
       lazy()},
      {"WriteBesideDataFile",
       beside(sized(kCluster, 40)),
       write(0, 1),
       write(1, 2),
       {"data written", ""}},
      {"DiscardBesideDataFile",
       beside(sized(kCluster, 40)),
       write(0, 4),
       discard(1, 2),
       {"removed before discard"},
       discarding()},
      {"LazyWriteAndClose",
       lazy(sized(kCluster, 40)),
       write(0, 1),
       both(write(1, 1), close()),
       {"", "", "counted before clean", ""},
       lazy()},
      {"LengthGrows",
       sized(kCluster, 100),
       write(0, 1),
       resize(9000),
       {"switch: written, switch: counted", "", "", ""}},
      {"LengthFalls",
       sized(kCluster, 200),
       write(0, 100),
       resize(30),
       {"", "removed before discard", "", "", ""}},
      {"CreateSnapshot",
       sized(kCluster, 100),
       write(0, 4),
       make_snapshot(),
       {"", "switch: written, switch: counted", "", ""}},
      {"WriteAndCreateSnapshot",
       sized(kCluster, 100),
       write(0, 4),
       both(put(4, 2), make_snapshot()),
       {"data written, data counted", "", "switch: written, switch: counted", "", ""}},
      {"ApplySnapshot",
       sized(kCluster, 100),
       both(both(write(0, 4), make_snapshot()), write(0, 2)),
       apply_snapshot(),
       {"", "switch: written, switch: counted", "removed before discard", ""}},
      {"DeleteSnapshot",
       sized(kCluster, 100),
       both(both(write(0, 4), make_snapshot()), write(0, 2)),
       delete_snapshot(),
       {"", "switch: written, switch: counted", "removed before discard", ""}},
      {"WidthOfCounts",
       sized(kCluster, 100),
       write(0, 4),
       amended(64, 0),
       {"", "switch: written, switch: counted", "removed before uncounted", "", ""}},
      {"OlderVersion",
       sized(kCluster, 100),
       both(write(0, 4), zero(0, 1)),
       amended(0, 2),
       {"", "data written", "", "", "", ""}},
      {"OlderVersionOfASnapshot",
       sized(kCluster, 100),
       both(both(write(0, 4), zero(0, 1)), make_snapshot()),
       amended(0, 2),
       {"", "data written", "", "", "", ""}},
      {"StoreBitmap",
       sized(kCluster, 100),
       write(0, 4),
       store("a"),
       {"directory: written, directory: counted, directory: in use, all before consistent",
        "all before consistent", ""}},
      {"WriteAndStoreBitmap",
       sized(kCluster, 100),
       both(write(0, 2), store("a")),
       both(put(0, 1), store("b")),
       {"in use before change",
        "directory: written, directory: counted, directory: in use, all before consistent",
        "all before consistent", "", ""}},
      {"FirstBitmapAcrossSectors",
       sized(8192, 100),
       write(0, 1),
       store("a"),
       {"", "directory: no mixture", "all before consistent", ""}},
      {"RemoveLastBitmapAcrossSectors",
       sized(8192, 100),
       store("a"),
       remove("a"),
       {"", "directory: no mixture", "", ""}},
      {"StoreBitmapAcrossSectors",
       sized(8192, 100),
       store("a"),
       store("b"),
       {"directory: written, directory: counted, directory: in use, all before consistent",
        "all before consistent", "", ""}},
      {"RemoveBitmap",
       sized(kCluster, 100),
       both(store("a"), store("b")),
       remove("a"),
       {"directory: written, directory: counted, directory: in use, all before consistent",
        "all before consistent", "", ""}},
  };
}

std::string named(const std::vector<OrderFault>& faults) {
  std::set<OrderRule> rules;
  for (const OrderFault& fault : faults) rules.insert(fault.rule);
  std::string names;
  for (const OrderRule rule : rules) {
    if (!names.empty()) names += ", ";
    names += order_rows()[static_cast<std::size_t>(rule)].name;
  }
  return names;
}

struct Judged {
  OrderJudge::Counts asked{};
  // By how many flushes in a row are left out, from 1.
  std::vector<std::vector<std::vector<OrderFault>>> left_out;
};

// On an image that was closed and opened again after what was done before.
Judged record_and_judge(const Transcript& t, int most) {
  sim::SimEnv env(1);
  env.storage().set_latency(sim::SimLatency::none());
  const std::string data_path = t.create.data_file ? "data" : "";
  std::unique_ptr<OpenedImage> opened;
  auto open = [&]() -> Task<void> {
    auto image = co_await open_image(env, "disk", t.options, {}, data_path);
    EXPECT_TRUE(image) << image.error().description;
    opened = std::move(*image);
  };
  auto prepare = [&]() -> Task<void> {
    auto made = co_await create_image(env, "disk", t.create, data_path);
    EXPECT_TRUE(made) << made.error().description;
    co_await open();
    co_await t.before(*opened);
    EXPECT_TRUE(co_await opened->close());
    co_await open();
  };
  env.run(prepare());
  env.storage().record();
  env.run(t.operation(*opened));
  const OrderVerdict verdict = judge_order(env.storage());
  for (const OrderFault& fault : verdict.faults) ADD_FAILURE() << describe(fault);
  Judged judged{verdict.asked, {}};
  for (int count = 1; count <= most; ++count) {
    judged.left_out.push_back(leave_out_flushes(env.storage(), count));
  }
  auto end = [&]() -> Task<void> { EXPECT_TRUE(co_await opened->close()); };
  env.run(end());
  return judged;
}

void PrintTo(const Transcript& transcript, std::ostream* out) { *out << transcript.name; }

class Qcow2OrderOf : public ::testing::TestWithParam<Transcript> {};

TEST_P(Qcow2OrderOf, EachFlush) {
  std::vector<std::string> flushes;
  for (const auto& faults : record_and_judge(GetParam(), 1).left_out[0])
    flushes.push_back(named(faults));
  EXPECT_EQ(flushes, GetParam().flushes);
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2OrderOf, ::testing::ValuesIn(transcripts()),
                         [](const auto& info) { return std::string(info.param.name); });

// How many flushes in a row must be missing in some transcript before a rule is broken. 0: none
// tell, but the place or the kind of a write. order_judge_test.cpp breaks all of them.
int flushes_needed(OrderRule rule) {
  switch (rule) {
    case OrderRule::kNobodys:
    case OrderRule::kUnshared:
    case OrderRule::kCopied:
    case OrderRule::kLength:
      return 0;
    case OrderRule::kTableCounted:
      // Steps 3 and 6.
    case OrderRule::kDirtyBeforeUncounted:
      // Its own and step 3.
    case OrderRule::kNoZeroFlags:
      // That of the tables, and that before any change of the header.
      return 2;
    default:
      return 1;
  }
}

TEST(Qcow2Order, EachRuleIsAskedAndMissesItsFlushes) {
  constexpr int kMost = 4;
  OrderJudge::Counts asked{};
  std::array<int, kOrderRules> needed{};
  for (const Transcript& transcript : transcripts()) {
    const Judged judged = record_and_judge(transcript, kMost);
    for (std::size_t i = 0; i < kOrderRules; ++i) asked[i] += judged.asked[i];
    for (int count = 1; count <= kMost; ++count) {
      for (const auto& faults : judged.left_out[static_cast<std::size_t>(count) - 1]) {
        for (const OrderFault& fault : faults) {
          const std::size_t i = static_cast<std::size_t>(fault.rule);
          if (needed[i] == 0 || needed[i] > count) needed[i] = count;
        }
      }
    }
  }
  for (const OrderRow& row : order_rows()) {
    const std::size_t i = static_cast<std::size_t>(row.rule);
    EXPECT_GT(asked[i], 0U) << row.name;
    EXPECT_EQ(needed[i], flushes_needed(row.rule)) << row.name;
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
