// copy-on-read: what is kept, what is not, and guests that write meanwhile.
#include "block/filters/copy_on_read.h"

#include "block/runtime/gate.h"
#include "tests/filters/filters_fixture.h"
#include "tests/jobs/golden_disk.h"
#include "tests/jobs/layer_driver.h"
#include "tests/support/seed_runner.h"

namespace blockbed {
namespace {

using test::GoldenDisk;
using test::kKiB;
using test::LayerImage;

constexpr uint64_t kCluster = LayerImage::kCluster;
constexpr uint64_t kSize = 10 * kCluster + 4 * kKiB;
constexpr unsigned char kBase = 7;

// "base" below the layer "top".
class Stack {
 public:
  explicit Stack(uint64_t seed, sim::SparseBytes base = test::FilterWorld::filled(kSize, kBase))
      : world(seed), image(kSize) {
    world.drivers = DriverRegistry();
    register_protocols(world.drivers);
    register_filters(world.drivers);
    world.drivers.add(test::layer_entry(world.env, image));
    world.file("base", std::move(base));
    world.file("storage", sim::SparseBytes(kKiB));
    json::Object top = world.options("qed", "top");
    top.set("file", "storage");
    top.set("backing", "base");
    overlay = &world.open(std::move(top));
  }

  Node& filter(const char* bottom = nullptr) {
    json::Object options = world.options("copy-on-read", "cor");
    options.set("file", "top");
    if (bottom != nullptr) options.set("bottom", bottom);
    return world.open(std::move(options));
  }
  std::vector<uint64_t> kept() const {
    std::vector<uint64_t> result;
    for (uint64_t i = 0; i < image.allocated.size(); ++i) {
      if (image.allocated[i]) result.push_back(i);
    }
    return result;
  }

  test::FilterWorld world;
  LayerImage image;
  Node* overlay = nullptr;
};

using Clusters = std::vector<uint64_t>;

TEST(CopyOnRead, KeepsWholeClustersThatWereRead) {
  Stack s(1);
  Backend& guest = s.world.guest(s.filter());
  auto bytes = s.world.read(guest, 2 * kCluster - 10, 20);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(*bytes, std::vector<std::byte>(20, std::byte{kBase}));
  EXPECT_EQ(s.kept(), (Clusters{1, 2}));
  EXPECT_EQ(s.image.bytes[kCluster], std::byte{kBase});
  EXPECT_EQ(s.image.bytes[3 * kCluster - 1], std::byte{kBase});

  // What is kept is not read from below again.
  sim::FaultRule fault;
  fault.path = "base";
  fault.requests = sim::kSimRead;
  s.world.env.storage().add_fault(fault);
  EXPECT_TRUE(s.world.read(guest, kCluster, 2 * kCluster));
  EXPECT_EQ(s.world.read(guest, 0, 1).error().number(), EIO);
}

TEST(CopyOnRead, TheLastClusterMayBeShort) {
  Stack s(1);
  Backend& guest = s.world.guest(s.filter());
  ASSERT_TRUE(s.world.read(guest, kSize - 1, 1));
  EXPECT_EQ(s.kept(), Clusters{10});
  EXPECT_EQ(s.overlay->length(), kSize);
}

TEST(CopyOnRead, ZeroesAreKeptAsZeroes) {
  Stack s(1, sim::SparseBytes(kSize));
  Backend& guest = s.world.guest(s.filter());
  ASSERT_TRUE(s.world.read(guest, 0, 512));
  EXPECT_TRUE(s.image.allocated[0] && s.image.zero[0]);
}

TEST(CopyOnRead, NothingComesFromBelowTheBottom) {
  Stack s(1);
  Backend& guest = s.world.guest(s.filter("top"));
  ASSERT_TRUE(s.world.read(guest, 0, kSize));
  EXPECT_EQ(s.kept(), Clusters{});
}

TEST(CopyOnRead, PrefetchKeepsWithoutReading) {
  Stack s(1);
  Backend& guest = s.world.guest(s.filter("base"));
  std::vector<std::byte> untouched(2 * kCluster, std::byte{0xee});
  RequestFlags flags;
  flags.prefetch = true;
  ASSERT_TRUE(s.world.env.run(guest.read(0, IoVector(untouched.data(), untouched.size()), flags)));
  EXPECT_EQ(s.kept(), (Clusters{0, 1}));
  EXPECT_EQ(untouched, std::vector<std::byte>(2 * kCluster, std::byte{0xee}));
}

TEST(CopyOnRead, PrefetchDoesNothingWhereNothingIsKept) {
  Stack s(1);
  Backend& guest = s.world.guest(*s.overlay);
  sim::FaultRule fault;
  fault.requests = sim::kSimRead;
  s.world.env.storage().add_fault(fault);
  std::vector<std::byte> untouched(2 * kCluster, std::byte{0xee});
  RequestFlags flags;
  flags.prefetch = true;
  ASSERT_TRUE(s.world.env.run(guest.read(0, IoVector(untouched.data(), untouched.size()), flags)));
  EXPECT_EQ(s.kept(), Clusters{});
  EXPECT_EQ(untouched, std::vector<std::byte>(2 * kCluster, std::byte{0xee}));
}

TEST(CopyOnRead, LinksDownToTheBottomAreFrozenWhileItIsThere) {
  Stack s(1);
  Node& filter = s.filter("base");
  EXPECT_TRUE(filter.filtered_edge()->frozen());
  EXPECT_TRUE(s.overlay->cow_edge()->frozen());
  s.world.drop(filter);
  EXPECT_FALSE(s.overlay->cow_edge()->frozen());
}

TEST(CopyOnRead, Refusals) {
  Stack s(1);
  s.world.file("other", sim::SparseBytes(kKiB));
  s.filter();
  const auto with_bottom = [&](const char* bottom) {
    json::Object options = s.world.options("copy-on-read", "c");
    options.set("file", "top");
    options.set("bottom", bottom);
    return s.world.refusal(std::move(options));
  };
  EXPECT_EQ(with_bottom("none"), "Bottom node 'none' not found");
  EXPECT_EQ(with_bottom("cor"), "Bottom node 'cor' is a filter");
  EXPECT_EQ(with_bottom("other"), "Bottom node 'other' is not in the chain of 'top'");
}

TEST(CopyOnRead, ANodeThatKeepsReadsItself) {
  Stack s(1);
  s.overlay->keep_reads();
  Backend& guest = s.world.guest(*s.overlay);
  ASSERT_TRUE(s.world.read(guest, 0, 1));
  EXPECT_EQ(s.kept(), Clusters{0});
}

// Guests write through the filter and past it, and read; nobody writes to a sector that somebody
// else uses, but clusters are shared by all.
class Guests {
 public:
  explicit Guests(uint64_t seed) : stack(seed, preset()), golden(kSize) {
    golden.preset(0, kSize, kPreset);
  }

  void run() {
    auto& world = stack.world;
    Node& filter = stack.filter(world.env.chance().percent(50) ? "base" : nullptr);
    Backend& through = world.guest(filter);
    Backend& past = world.guest(*stack.overlay);
    world.env.run(all(through, past));
    world.drop_guests();
    world.drop(filter);
    Backend& judge = world.guest(*stack.overlay);
    auto bytes = world.read(judge, 0, kSize);
    ASSERT_TRUE(bytes);
    EXPECT_EQ(golden.first_wrong(*bytes), std::nullopt);
    EXPECT_EQ(wrong_reads, 0);
  }

 private:
  static constexpr uint64_t kPreset = 1'000'000'000;

  static sim::SparseBytes preset() {
    std::vector<std::byte> bytes(kSize);
    GoldenDisk::fill(bytes, kPreset);
    sim::SparseBytes content(kSize);
    content.write(0, bytes);
    return content;
  }

  Task<void> all(Backend& through, Backend& past) {
    Gate gate(stack.world.env.executor());
    for (int i = 0; i < 6; ++i) gate.spawn(guest(i % 2 == 0 ? through : past));
    co_await gate.close();
  }

  Task<void> guest(Backend& backend) {
    auto& chance = stack.world.env.chance();
    for (int i = 0; i < 25; ++i) {
      const uint64_t sectors = chance.between(1, 40);
      const uint64_t length = sectors * GoldenDisk::kSector;
      const uint64_t offset =
          chance.between(0, (kSize - length) / GoldenDisk::kSector) * GoldenDisk::kSector;
      if (golden.busy(offset, length)) {
        co_await stack.world.env.sleep(10'000);
        continue;
      }
      Buffer buffer(length);
      if (chance.percent(40)) {
        const uint64_t number = golden.next_number();
        GoldenDisk::fill(buffer.span(), number);
        golden.begin(offset, length, number);
        const auto done = co_await backend.write(offset, buffer.io());
        golden.end(offset, length, number, done.has_value());
        continue;
      }
      golden.reading(offset, length, true);
      const auto done = co_await backend.read(offset, buffer.io());
      golden.reading(offset, length, false);
      if (!done) ++wrong_reads;
      for (uint64_t at = 0; done && at < length; at += GoldenDisk::kSector) {
        if (!golden.may_show((offset + at) / GoldenDisk::kSector, buffer.data() + at)) {
          ++wrong_reads;
        }
      }
    }
  }

  Stack stack;
  GoldenDisk golden;
  int wrong_reads = 0;
};

TEST(CopyOnReadSim, NoWriteIsOvertakenByAStaleCopy) {
  sim::for_each_seed(60, [](uint64_t seed) { Guests(seed).run(); });
}

}  // namespace
}  // namespace blockbed
