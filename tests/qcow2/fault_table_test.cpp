// Every operation of an image, with each of its requests to the file failed in turn until none is
// left to fail: an error is told, what was flushed before is there, the image has no fault but
// leaks, and the same operation succeeds once the fault has gone.
//
// A new operation is a line in kOperations: what the disk holds before, and what is done.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>

#include "block/formats/qcow2/check.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bytes = std::vector<std::byte>;

// What the disk must read as, piece by piece; nothing where a failed request may have left
// anything.
class Model {
 public:
  static constexpr uint64_t kUnit = 256;

  explicit Model(uint64_t size) : sectors_(size / kUnit, std::byte{0}) {}

  void resize(uint64_t size) { sectors_.resize(size / kUnit, std::byte{0}); }
  uint64_t size() const { return sectors_.size() * kUnit; }
  void set(uint64_t begin, uint64_t end, std::optional<std::byte> value) {
    for (uint64_t i = begin / kUnit; i < end / kUnit && i < sectors_.size(); ++i) {
      sectors_[i] = value;
    }
  }
  // What is the same in both is known.
  Model only_where_equal(const Model& other) const {
    Model result = *this;
    for (std::size_t i = 0; i < sectors_.size(); ++i) {
      if (i >= other.sectors_.size() || sectors_[i] != other.sectors_[i]) {
        result.sectors_[i] = std::nullopt;
      }
    }
    return result;
  }
  void compare(const Bytes& bytes, const std::string& where) const {
    const uint64_t both = std::min<uint64_t>(bytes.size(), size());
    for (uint64_t at = 0; at < both; ++at) {
      const auto& expected = sectors_[at / kUnit];
      if (!expected || bytes[at] == *expected) continue;
      ADD_FAILURE() << where << ": byte " << at << " is " << static_cast<int>(bytes[at])
                    << " and not " << static_cast<int>(*expected);
      return;
    }
  }

 private:
  std::vector<std::optional<std::byte>> sectors_;
};

// An image and what it must hold.
struct Scene {
  Env& env;
  Model& model;
  Image* image = nullptr;
  // Something was told to have failed.
  bool failed = false;
  // The last step put everything into the file.
  bool flushed = false;

  uint64_t cluster() const { return image->geometry().cluster_size; }

  void account(uint64_t offset, uint64_t length, const Result<void>& done, std::byte value) {
    if (!done) {
      const int number = done.error().number();
      EXPECT_TRUE(number == EIO || number == ENOSPC) << number;
      failed = true;
    }
    model.set(offset, offset + length, done ? std::optional(value) : std::nullopt);
  }
  void account(const Result<void>& done) { failed |= !done; }

  Task<void> write(uint64_t offset, uint64_t length, int value) {
    Bytes data(length, static_cast<std::byte>(value));
    auto done = co_await image->write(offset, IoVector(data.data(), data.size()));
    account(offset, length, done, static_cast<std::byte>(value));
  }
  Task<void> compressed(uint64_t offset, uint64_t length, int value) {
    Bytes data(length, static_cast<std::byte>(value));
    auto done = co_await image->write_compressed(offset, IoVector(data.data(), data.size()));
    account(offset, length, done, static_cast<std::byte>(value));
  }
  Task<void> zero(uint64_t offset, uint64_t length, bool unmap) {
    RequestFlags flags;
    flags.may_unmap = unmap;
    account(offset, length, co_await image->zero(offset, length, flags), std::byte{0});
  }
  Task<void> discard(uint64_t offset, uint64_t length) {
    account(offset, length, co_await image->discard(offset, length), std::byte{0});
  }
  Task<void> flush() {
    auto done = co_await image->flush();
    account(done);
    flushed = done.has_value();
  }
  Task<void> read_all(std::string where) {
    Bytes bytes(std::min(model.size(), image->length()));
    auto done = co_await image->read(0, IoVector(bytes.data(), bytes.size()));
    account(done);
    if (done) model.compare(bytes, where);
  }
  Task<void> truncate(uint64_t length, Preallocation mode = Preallocation::kOff) {
    const uint64_t before = image->length();
    TruncateOptions options;
    options.preallocation = mode;
    auto done = co_await image->truncate(length, options);
    failed |= !done;
    if (length > before) {
      if (done) model.resize(length);
    } else {
      // A shrink that failed halfway has dropped some of what was to go.
      if (!done) model.set(length, before, std::nullopt);
      if (done) model.resize(length);
    }
  }
};

using Step = Task<void> (*)(Scene&);

struct Operation {
  const char* name;
  Step before;
  Step run;
  // Of the options for creation.
  uint64_t cluster = 512;
  uint32_t refcount_bits = 16;
  uint32_t version = 3;
  bool extended_l2 = false;
  bool lazy = false;
  // In clusters.
  uint64_t clusters = 160;
};

Task<void> nothing(Scene&) { co_return; }

Task<void> some_data(Scene& s) {
  co_await s.write(0, 4 * s.cluster(), 1);
  co_await s.write(70 * s.cluster(), 3 * s.cluster(), 2);
  co_await s.compressed(20 * s.cluster(), 4 * s.cluster(), 3);
}

// Up to the end of what the first refcount blocks count.
Task<void> much_data(Scene& s) {
  for (uint64_t at = 0; at < 60; at += 4) {
    co_await s.write(at * s.cluster(), 4 * s.cluster(), static_cast<int>(1 + at));
  }
}

Task<void> read_it(Scene& s) { return s.read_all("during the operation"); }
Task<void> write_allocating(Scene& s) {
  co_await s.write(30 * s.cluster(), 3 * s.cluster(), 10);
  co_await s.write(140 * s.cluster(), 2 * s.cluster(), 11);
  co_await s.flush();
}
Task<void> write_in_place(Scene& s) {
  co_await s.write(s.cluster(), 2 * s.cluster(), 12);
  co_await s.flush();
}
Task<void> write_cow(Scene& s) {
  // Over a compressed cluster, and into a part of a new one.
  co_await s.write(21 * s.cluster() + s.cluster() / 2, s.cluster() / 2, 13);
  co_await s.write(40 * s.cluster() + s.cluster() / 2, s.cluster() / 2, 14);
  co_await s.flush();
}
Task<void> write_compressed(Scene& s) {
  co_await s.compressed(50 * s.cluster(), 5 * s.cluster(), 15);
  co_await s.compressed(24 * s.cluster(), s.cluster(), 16);
  co_await s.flush();
}
Task<void> zero_keeping(Scene& s) {
  co_await s.zero(0, 3 * s.cluster(), false);
  co_await s.zero(20 * s.cluster(), 2 * s.cluster(), false);
  co_await s.flush();
}
Task<void> zero_unmapping(Scene& s) {
  co_await s.zero(0, 3 * s.cluster(), true);
  co_await s.zero(20 * s.cluster(), 2 * s.cluster(), true);
  co_await s.flush();
}
Task<void> zero_parts(Scene& s) {
  co_await s.zero(s.cluster() / 2, s.cluster(), false);
  co_await s.zero(20 * s.cluster() + s.cluster() / 2, s.cluster(), true);
  co_await s.flush();
}
Task<void> discard(Scene& s) {
  co_await s.discard(0, 2 * s.cluster());
  co_await s.discard(20 * s.cluster(), 2 * s.cluster());
  co_await s.discard(70 * s.cluster(), s.cluster());
  co_await s.flush();
}
Task<void> discard_and_reuse(Scene& s) {
  co_await s.discard(0, 4 * s.cluster());
  co_await s.flush();
  co_await s.write(80 * s.cluster(), 4 * s.cluster(), 17);
  co_await s.flush();
}
Task<void> grow_refcounts(Scene& s) {
  // More clusters than the refcount table counts.
  for (uint64_t at = 60; at < 156; at += 12) {
    co_await s.write(at * s.cluster(), 12 * s.cluster(), static_cast<int>(at));
  }
  co_await s.flush();
}
Task<void> resize_up(Scene& s) {
  co_await s.truncate(s.image->length() + 40 * s.cluster());
  co_await s.flush();
}
Task<void> grow_l1(Scene& s) {
  co_await s.truncate(s.image->length() + 6000 * s.cluster());
  co_await s.flush();
}
Task<void> resize_preallocated(Scene& s) {
  co_await s.truncate(s.image->length() + 80 * s.cluster(), Preallocation::kMetadata);
  co_await s.flush();
}
Task<void> resize_down(Scene& s) {
  co_await s.truncate(71 * s.cluster());
  co_await s.flush();
}
Task<void> empty(Scene& s) {
  auto done = co_await s.image->make_empty();
  s.account(0, s.image->length(), done, std::byte{0});
  co_await s.flush();
}
// 4096 clusters are what the first refcount table counts when a count has 64 bits.
Task<void> fill_refcount_table(Scene& s) { co_await s.write(0, 3940 * s.cluster(), 1); }
Task<void> grow_refcount_table(Scene& s) {
  for (uint64_t at = 3940; at < 4180; at += 60) {
    co_await s.write(at * s.cluster(), 60 * s.cluster(), static_cast<int>(at & 0xff));
    co_await s.flush();
  }
}
Task<void> grow_l1_and_write(Scene& s) {
  const uint64_t end = s.image->length();
  co_await s.truncate(end + 80 * s.cluster());
  // L2 tables that only the L1 table in use refers to.
  co_await s.write(130 * s.cluster(), 2 * s.cluster(), 19);
  if (s.image->length() > end) co_await s.write(end + 70 * s.cluster(), 2 * s.cluster(), 20);
  co_await s.flush();
}
Task<void> change_and_close(Scene& s) {
  // Nothing is flushed: closing has all to do.
  co_await s.write(100 * s.cluster(), 2 * s.cluster(), 18);
  co_await s.discard(s.cluster(), s.cluster());
}

constexpr Operation kOperations[] = {
    {"OpenAndRead", some_data, read_it},
    {"WriteAllocating", some_data, write_allocating},
    {"WriteInPlace", some_data, write_in_place},
    {"WriteCopying", some_data, write_cow},
    {"WriteCompressed", some_data, write_compressed},
    {"ZeroKeeping", some_data, zero_keeping},
    {"ZeroUnmapping", some_data, zero_unmapping},
    {"ZeroParts", some_data, zero_parts},
    {"Discard", some_data, discard},
    {"DiscardAndReuse", some_data, discard_and_reuse},
    {"RefcountBlocks", much_data, grow_refcounts},
    {.name = "RefcountTable", .before = much_data, .run = grow_refcounts, .refcount_bits = 64},
    {"ResizeUp", some_data, resize_up},
    {"L1Table", some_data, grow_l1},
    {"ResizePreallocated", some_data, resize_preallocated},
    {"ResizeDown", some_data, resize_down},
    {"Empty", some_data, empty},
    {"Close", some_data, change_and_close},
    {.name = "LazyWrite", .before = some_data, .run = write_allocating, .lazy = true},
    {.name = "LazyClose", .before = some_data, .run = change_and_close, .lazy = true},
    {.name = "Version2Write", .before = some_data, .run = write_allocating, .version = 2},
    {.name = "Version2Discard", .before = some_data, .run = discard, .version = 2},
    {.name = "Version2Zero", .before = some_data, .run = zero_keeping, .version = 2},
    {.name = "Version2ZeroParts", .before = some_data, .run = zero_parts, .version = 2},
    {.name = "SubclusterWrite",
     .before = some_data,
     .run = write_cow,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {.name = "SubclusterZero",
     .before = some_data,
     .run = zero_parts,
     .cluster = 16384,
     .extended_l2 = true,
     .clusters = 80},
    {.name = "LargeClusters",
     .before = nothing,
     .run = write_cow,
     .cluster = 65536,
     .clusters = 48},
};

// Where one write of the header puts other tables in the place of the present ones.
constexpr Operation kSwitches[] = {
    {.name = "RefcountTable",
     .before = fill_refcount_table,
     .run = grow_refcount_table,
     .refcount_bits = 64,
     .clusters = 4200},
    {"L1Table", some_data, grow_l1_and_write},
    {"ResizeUp", some_data, resize_up},
    {"ResizeDown", some_data, resize_down},
};

MetadataOptions options_of(const Operation& operation) {
  MetadataOptions options = writable_options();
  // Few, so that tables come and go.
  options.l2_pieces = 4;
  options.refcount_pieces = 4;
  options.discard_request = true;
  options.lazy_refcounts = operation.lazy;
  return options;
}

Task<void> prepare(Scene& scene, const Operation& operation) {
  CreateOptions create;
  create.size = operation.clusters * operation.cluster;
  create.cluster_size = operation.cluster;
  create.refcount_bits = operation.refcount_bits;
  create.version = operation.version;
  create.extended_l2 = operation.extended_l2;
  create.lazy_refcounts = operation.lazy;
  EXPECT_TRUE(co_await create_image(scene.env, "disk", create));
  auto opened = co_await open_image(scene.env, "disk", options_of(operation));
  EXPECT_TRUE(opened);
  if (!opened) co_return;
  scene.image = (*opened)->image.get();
  co_await operation.before(scene);
  EXPECT_TRUE(co_await (*opened)->close());
  EXPECT_FALSE(scene.failed);
}

// How the program ends after the operation: in order, or at once, which loses what was not flushed.
// kTriedAgain: at once after a second try.
enum class End { kClosed, kKilled, kTriedAgain };

Task<void> attempt(Scene& scene, const Operation& operation, sim::SimStorage& storage,
                   const sim::FaultRule& rule, End end, bool& hit) {
  const Model before = scene.model;
  const auto id = storage.add_fault(rule);
  auto opened = co_await open_image(scene.env, "disk", options_of(operation));
  if (!opened) {
    scene.failed = true;
    hit = storage.hits(id) > 0;
    storage.remove_fault(id);
    co_return;
  }
  scene.image = (*opened)->image.get();
  co_await operation.run(scene);
  if (storage.hits(id) > 0 && end != End::kKilled) {
    // The fault has gone: the same again succeeds, on the image as the error left it.
    storage.remove_fault(id);
    hit = true;
    scene.failed = false;
    co_await operation.run(scene);
    EXPECT_FALSE(scene.failed) << "the operation fails without a fault";
    co_await scene.read_all("after the second try");
    if (end == End::kTriedAgain) {
      EXPECT_TRUE(scene.flushed) << "the operation ends with a flush";
      co_await (*opened)->abandon();
    } else {
      auto closed = co_await (*opened)->close();
      EXPECT_TRUE(closed);
    }
    scene.failed = true;
    co_return;
  }
  if (end != End::kClosed) {
    if (!scene.flushed) scene.model = scene.model.only_where_equal(before);
    co_await (*opened)->abandon();
  } else if (auto closed = co_await (*opened)->close(); !closed) {
    // What had not been flushed may be lost, as the error says.
    scene.failed = true;
    if (!scene.flushed) scene.model = scene.model.only_where_equal(before);
  }
  hit = storage.hits(id) > 0;
  storage.remove_fault(id);
}

// Only leaks, and everything there that was told to be.
Task<void> judge(Scene& scene, std::string where) {
  auto file = co_await scene.env.open_file("disk", FileOpenOptions());
  EXPECT_TRUE(file) << where;
  if (!file) co_return;
  FileStorage storage(**file);
  auto header = co_await read_header(storage, HeaderUse::kChecking);
  EXPECT_TRUE(header) << where;
  if (header && !header->has(incompatible::kDirty)) {
    auto report = co_await check_image(storage, *header);
    EXPECT_TRUE(report) << where;
    if (report) EXPECT_EQ(report->corruptions, 0u) << where << ": " << report->describe();
  }
  (void)co_await (*file)->close();
  auto opened = co_await open_image(scene.env, "disk", MetadataOptions());
  EXPECT_TRUE(opened) << where;
  if (!opened) co_return;
  scene.image = (*opened)->image.get();
  const bool before = scene.failed;
  scene.failed = false;
  co_await scene.read_all(where);
  EXPECT_FALSE(scene.failed) << where;
  scene.failed = before;
  (void)co_await (*opened)->close();
}

sim::FaultRule fault(unsigned kinds, int error) {
  sim::FaultRule rule;
  rule.requests = kinds;
  rule.error = error;
  return rule;
}

void fail_each(const Operation& operation, sim::FaultRule rule, End end, uint64_t seed = 1) {
  uint64_t told = 0;
  for (;; ++rule.skip) {
    const std::string where =
        fmt::format("{}, request {} of kind {:#x} fails with {}, {} times, seed {}", operation.name,
                    rule.skip, rule.requests, rule.error, rule.times, seed + rule.skip);
    sim::SimEnv env(seed + rule.skip);
    Model model(operation.clusters * operation.cluster);
    Scene scene{env, model};
    env.run(prepare(scene, operation));
    bool hit = false;
    env.run(attempt(scene, operation, env.storage(), rule, end, hit));
    if (scene.failed) ++told;
    env.run(judge(scene, where));
    ASSERT_FALSE(::testing::Test::HasFailure()) << where;
    if (!hit) {
      EXPECT_FALSE(scene.failed) << where;
      break;
    }
    ASSERT_LT(rule.skip, 5000u) << operation.name;
  }
  ::testing::Test::RecordProperty("told", static_cast<int>(told));
}

class Qcow2FaultTable : public ::testing::TestWithParam<Operation> {};

TEST_P(Qcow2FaultTable, Writes) { fail_each(GetParam(), fault(sim::kSimWrite, EIO), End::kClosed); }
TEST_P(Qcow2FaultTable, WritesWithoutSpace) {
  fail_each(GetParam(), fault(sim::kSimWrite, ENOSPC), End::kClosed);
}
TEST_P(Qcow2FaultTable, Reads) { fail_each(GetParam(), fault(sim::kSimRead, EIO), End::kClosed); }
TEST_P(Qcow2FaultTable, Flushes) {
  fail_each(GetParam(), fault(sim::kSimFlush, EIO), End::kClosed);
}
TEST_P(Qcow2FaultTable, EverythingThenKilled) {
  fail_each(GetParam(), fault(sim::kSimEverything, EIO), End::kKilled);
}

INSTANTIATE_TEST_SUITE_P(Every, Qcow2FaultTable, ::testing::ValuesIn(kOperations),
                         [](const auto& info) { return std::string(info.param.name); });

// The write of the header fails, and may have changed it all the same; or the flush behind it does.
// The second time, what puts the header right again fails too. All that is told to be flushed
// afterwards is found by the header that the disk has.
class Qcow2HeaderFaults : public ::testing::TestWithParam<Operation> {};

TEST_P(Qcow2HeaderFaults, ThenKilled) {
  sim::FaultRule writes = fault(sim::kSimWrite, EIO);
  writes.length = kSectorSize;
  for (sim::FaultRule rule : {writes, fault(sim::kSimFlush, EIO)}) {
    for (rule.times = 1; rule.times <= 2; ++rule.times) {
      for (uint64_t seed = 1; seed <= 2; ++seed) {
        fail_each(GetParam(), rule, End::kTriedAgain, seed * 100);
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Qcow2HeaderFaults, ::testing::ValuesIn(kSwitches),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace blockbed::qcow2::test
