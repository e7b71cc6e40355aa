#include "block/sim/sim_storage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "block/runtime/gate.h"
#include "block/sim/crash_points.h"
#include "block/sim/sim_env.h"
#include "tests/support/seed_runner.h"

namespace blockbed::sim {
namespace {

FileOpenOptions writable() {
  FileOpenOptions options;
  options.write = options.create = true;
  return options;
}

Task<std::unique_ptr<File>> open(Env& env, std::string path) {
  auto file = co_await env.open_file(std::move(path), writable());
  EXPECT_TRUE(file.has_value());
  co_return std::move(*file);
}

Task<int> write_byte(File& file, uint64_t offset, uint64_t length, unsigned char byte) {
  const Buffer buffer(length);
  buffer.io().fill(byte);
  const auto written = co_await file.write(offset, buffer.io());
  co_return written ? 0 : written.error().number();
}

Task<std::vector<unsigned char>> read_bytes(File& file, uint64_t offset, uint64_t length) {
  std::vector<unsigned char> bytes(length, 0xEE);
  const auto got = co_await file.read(offset, IoVector(bytes.data(), bytes.size()));
  EXPECT_TRUE(got.has_value());
  co_return bytes;
}

unsigned char byte_at(const SparseBytes& content, uint64_t offset) {
  std::byte b;
  content.read(offset, std::span(&b, 1));
  return static_cast<unsigned char>(b);
}

// All `length` bytes are the same one of the allowed values, sector by sector.
void expect_sectors_among(const SparseBytes& content, uint64_t offset, uint64_t length,
                          std::vector<unsigned char> allowed) {
  for (uint64_t at = offset; at < offset + length; at += kSector) {
    const unsigned char first = byte_at(content, at);
    EXPECT_NE(std::ranges::find(allowed, first), allowed.end())
        << "offset " << at << " has " << static_cast<int>(first);
    for (uint64_t i = 1; i < kSector; ++i) {
      ASSERT_EQ(byte_at(content, at + i), first) << "torn sector at " << at;
    }
  }
}

Task<void> read_what_was_written(SimEnv& env) {
  const auto file = co_await open(env, "a");
  EXPECT_EQ(co_await write_byte(*file, 1000, 3000, 7), 0);
  const auto bytes = co_await read_bytes(*file, 900, 4000);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(bytes[i], i >= 100 && i < 3100 ? 7 : 0) << i;
  }
  const auto info = co_await file->info();
  EXPECT_EQ(info->size, 4000U);
  EXPECT_TRUE((co_await file->zero(2000, 4000, true)).has_value());
  EXPECT_EQ((co_await file->info())->size, 6000U);
  EXPECT_TRUE((co_await file->discard(5000, 4000)).has_value());
  EXPECT_EQ((co_await file->info())->size, 6000U);
  EXPECT_TRUE((co_await file->truncate(1500, FilePreallocation::kOff)).has_value());
  EXPECT_TRUE((co_await file->truncate(3000, FilePreallocation::kOff)).has_value());
  const auto after = co_await read_bytes(*file, 0, 3000);
  EXPECT_EQ(after[1499], 7);
  EXPECT_EQ(after[1500], 0);
  EXPECT_TRUE((co_await file->close()).has_value());
}

TEST(SimStorage, ReadsWhatWasWritten) {
  for_each_seed(20, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(read_what_was_written(env));
  });
}

Task<void> extents(SimEnv& env) {
  const auto file = co_await open(env, "a");
  EXPECT_TRUE((co_await file->truncate(1 << 20, FilePreallocation::kOff)).has_value());
  EXPECT_EQ(co_await write_byte(*file, 65536, 8192, 1), 0);
  auto hole = co_await file->extent(0, 1 << 20);
  EXPECT_FALSE(hole->data);
  EXPECT_EQ(hole->length, 65536U);
  auto data = co_await file->extent(65536, 1 << 20);
  EXPECT_TRUE(data->data);
  EXPECT_EQ(data->length, 8192U);
  EXPECT_EQ((co_await file->info())->allocated, 8192U);
  EXPECT_TRUE((co_await file->discard(65536, 4096)).has_value());
  EXPECT_EQ((co_await file->info())->allocated, 4096U);
  EXPECT_TRUE((co_await file->close()).has_value());
}

TEST(SimStorage, KnowsItsHoles) {
  SimEnv env(3);
  env.run(extents(env));
}

Task<void> unflushed_and_flushed(SimEnv& env) {
  const auto file = co_await open(env, "disk");
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 1), 0);
  EXPECT_TRUE((co_await file->flush()).has_value());
  EXPECT_EQ(co_await write_byte(*file, 0, 2048, 2), 0);
  EXPECT_EQ(co_await write_byte(*file, 0, 1024, 3), 0);
  EXPECT_EQ(co_await write_byte(*file, 8192, 4096, 4), 0);
  env.storage().power_off();
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 9), EIO);
  EXPECT_TRUE((co_await file->close()).has_value());
}

TEST(SimStorage, FlushedBytesSurviveAndUnflushedOnesMayBeTorn) {
  SimEnv env(1);
  env.run(unflushed_and_flushed(env));
  const SparseBytes none = env.storage().crash_image(CrashSubset::none()).at("disk");
  EXPECT_EQ(none.size(), 4096U);
  expect_sectors_among(none, 0, 4096, {1});
  const SparseBytes all = env.storage().crash_image(CrashSubset::all()).at("disk");
  EXPECT_EQ(all.size(), 12288U);
  expect_sectors_among(all, 0, 1024, {3});
  expect_sectors_among(all, 1024, 1024, {2});
  expect_sectors_among(all, 4096, 4096, {0});
  expect_sectors_among(all, 8192, 4096, {4});

  int torn = 0, middle_version = 0, longer = 0;
  for (uint64_t s = 0; s < 300; ++s) {
    const SparseBytes some = env.storage().crash_image(CrashSubset::seeded(s)).at("disk");
    EXPECT_TRUE(some.size() == 4096 || some.size() == 12288);
    expect_sectors_among(some, 0, 1024, {1, 2, 3});
    expect_sectors_among(some, 1024, 1024, {1, 2});
    expect_sectors_among(some, 2048, 2048, {1});
    if (byte_at(some, 0) == 2) ++middle_version;
    if (some.size() > 4096) {
      ++longer;
      expect_sectors_among(some, 8192, 4096, {0, 4});
      if (byte_at(some, 8192) != byte_at(some, 8704)) ++torn;
    }
  }
  EXPECT_GT(torn, 5);
  EXPECT_GT(middle_version, 5);
  EXPECT_GT(longer, 50);
  EXPECT_LT(longer, 250);
}

Task<void> write_after_truncate(SimEnv& env) {
  const auto file = co_await open(env, "disk");
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 1), 0);
  EXPECT_TRUE((co_await file->flush()).has_value());
  EXPECT_TRUE((co_await file->truncate(512, FilePreallocation::kOff)).has_value());
  EXPECT_EQ(co_await write_byte(*file, 1024, 512, 2), 0);
  env.storage().power_off();
  EXPECT_TRUE((co_await file->close()).has_value());
}

TEST(SimStorage, SizesAreKeptInOrder) {
  SimEnv env(1);
  env.run(write_after_truncate(env));
  for (uint64_t s = 0; s < 100; ++s) {
    const SparseBytes some = env.storage().crash_image(CrashSubset::seeded(s)).at("disk");
    switch (some.size()) {
      case 4096:  // neither the truncation nor what followed, but for the write's bytes
        expect_sectors_among(some, 0, 1024, {1});
        expect_sectors_among(some, 1024, 512, {1, 2});
        break;
      case 512:
        break;
      case 1536:
        expect_sectors_among(some, 512, 512, {0});
        expect_sectors_among(some, 1024, 512, {0, 2});
        break;
      default:
        ADD_FAILURE() << some.size();
    }
    EXPECT_EQ(byte_at(some, 0), 1);
  }
}

Task<void> power_cycle(SimEnv& env) {
  auto file = co_await open(env, "disk");
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 1), 0);
  EXPECT_TRUE((co_await file->flush()).has_value());
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 2), 0);
  env.storage().power_off();
  EXPECT_EQ((co_await file->flush()).error().number(), EIO);
  EXPECT_TRUE((co_await file->close()).has_value());
  env.storage().power_on(env.storage().crash_image(CrashSubset::none()));
  file = co_await open(env, "disk");
  EXPECT_EQ((co_await read_bytes(*file, 0, 4096))[0], 1);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 3), 0);
  EXPECT_TRUE((co_await file->close()).has_value());
}

TEST(SimStorage, ComesBackAfterACrash) {
  SimEnv env(1);
  env.run(power_cycle(env));
}

// Writes a record, then a pointer to it, with a flush between: the rule that a format relies on.
Task<void> ordered_writes(SimEnv& env, bool flush_between) {
  const auto file = co_await open(env, "disk");
  for (unsigned char i = 1; i <= 3; ++i) {
    if (co_await write_byte(*file, 4096U * i, 4096, i) != 0) break;
    if (flush_between && !(co_await file->flush())) break;
    if (co_await write_byte(*file, 0, 512, i) != 0) break;
    if (flush_between && !(co_await file->flush())) break;
  }
  co_await file->close();
}

bool record_is_there(const SparseBytes& disk) {
  if (disk.size() == 0) return true;
  const unsigned char last = byte_at(disk, 0);
  for (uint64_t i = 1; i <= last; ++i) {
    for (uint64_t at = 0; at < 4096; ++at) {
      if (byte_at(disk, 4096 * i + at) != i) return false;
    }
  }
  return true;
}

int count_broken(uint64_t seed, bool flush_between) {
  SimEnv env(seed);
  env.storage().put("disk", SparseBytes());
  env.storage().record();
  env.run(ordered_writes(env, flush_between));
  int broken = 0;
  std::size_t points = 0;
  for (CrashPoints crash(env.storage()); !crash.at_end(); crash.next()) {
    EXPECT_EQ(crash.point(), points++);
    if (!record_is_there(crash.image(CrashSubset::none()).at("disk"))) ++broken;
    if (!record_is_there(crash.image(CrashSubset::all()).at("disk"))) ++broken;
    for (uint64_t s = 0; s < 10; ++s) {
      if (!record_is_there(crash.image(CrashSubset::seeded(s)).at("disk"))) ++broken;
    }
  }
  EXPECT_EQ(points, env.storage().operations() + 1);
  return broken;
}

TEST(CrashPoints, FindAMissingFlushAndAcceptARightOrder) {
  for_each_seed(10, [](uint64_t seed) {
    EXPECT_EQ(count_broken(seed, true), 0);
    EXPECT_GT(count_broken(seed, false), 0);
  });
}

TEST(CrashPoints, AreWhatPowerOffLeavesThere) {
  SimEnv recorded(4);
  recorded.storage().put("disk", SparseBytes());
  recorded.storage().record();
  recorded.run(ordered_writes(recorded, true));
  for (CrashPoints crash(recorded.storage()); !crash.at_end(); crash.next()) {
    if (crash.point() == 0) continue;
    SimEnv env(4);
    env.storage().put("disk", SparseBytes());
    env.storage().power_off_at(crash.point());
    env.run(ordered_writes(env, true));
    ASSERT_FALSE(env.storage().powered());
    for (const CrashSubset& subset :
         {CrashSubset::none(), CrashSubset::all(), CrashSubset::seeded(1)}) {
      EXPECT_TRUE(env.storage().crash_image(subset) == crash.image(subset)) << crash.describe();
    }
  }
}

Task<void> overlapping(SimEnv& env, std::vector<unsigned char>& seen) {
  const auto file = co_await open(env, "disk");
  Gate gate(env.executor());
  const auto writer = [](File& f, unsigned char byte) -> Task<void> {
    EXPECT_EQ(co_await write_byte(f, 0, 4096, byte), 0);
  };
  const auto reader = [](File& f, std::vector<unsigned char>& out) -> Task<void> {
    out = co_await read_bytes(f, 0, 4096);
  };
  gate.spawn(writer(*file, 1));
  gate.spawn(writer(*file, 2));
  gate.spawn(reader(*file, seen));
  co_await gate.close();
  const auto last = co_await read_bytes(*file, 0, 4096);
  EXPECT_TRUE(last[0] == 1 || last[0] == 2);
  co_await file->close();
}

TEST(SimStorage, OverlappingRequestsGiveEithersSectors) {
  int mixed = 0;
  for_each_seed(200, [&mixed](uint64_t seed) {
    SimEnv env(seed);
    std::vector<unsigned char> seen;
    env.run(overlapping(env, seen));
    for (std::size_t at = 0; at < seen.size(); at += kSector) {
      EXPECT_LE(seen[at], 2);
      for (std::size_t i = 0; i < kSector; ++i) ASSERT_EQ(seen[at], seen[at + i]);
      if (seen[at] != seen[0]) ++mixed;
    }
  });
  EXPECT_GT(mixed, 0);
}

Task<void> faults(SimEnv& env) {
  SimStorage& storage = env.storage();
  storage.put("disk", SparseBytes(65536));
  const auto file = co_await open(env, "disk");
  FaultRule third;
  third.requests = kSimWrite;
  third.skip = 2;
  third.error = ENOSPC;
  const auto id = storage.add_fault(third);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 1), 0);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 1), 0);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 1), ENOSPC);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 1), 0);
  EXPECT_EQ(storage.hits(id), 1U);

  FaultRule range;
  range.requests = kSimRead;
  range.offset = 4096;
  range.length = 4096;
  range.times = UINT64_MAX;
  const auto bad = storage.add_fault(range);
  Buffer buffer(4096);
  EXPECT_TRUE((co_await file->read(0, buffer.io())).has_value());
  EXPECT_EQ((co_await file->read(4096, buffer.io())).error().number(), EIO);
  EXPECT_EQ((co_await file->read(8191, buffer.io())).error().number(), EIO);
  EXPECT_TRUE((co_await file->read(8192, buffer.io())).has_value());
  storage.remove_fault(bad);
  EXPECT_TRUE((co_await file->read(4096, buffer.io())).has_value());

  FaultRule other;
  other.path = "elsewhere";
  other.times = UINT64_MAX;
  storage.add_fault(other);
  EXPECT_TRUE((co_await file->flush()).has_value());
  const auto missing = co_await env.open_file("elsewhere", writable());
  EXPECT_EQ(missing.error().number(), EIO);
  co_await file->close();
}

TEST(SimStorage, RulesMakeRequestsFail) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(faults(env));
  });
}

TEST(SimStorage, AFailedWriteMayHaveChangedSomeSectors) {
  int changed = 0, unchanged = 0;
  for_each_seed(100, [&](uint64_t seed) {
    SimEnv env(seed);
    env.storage().put("disk", SparseBytes(8192));
    FaultRule rule;
    rule.requests = kSimWrite;
    env.storage().add_fault(rule);
    const auto body = [](SimEnv& e) -> Task<void> {
      const auto file = co_await open(e, "disk");
      EXPECT_EQ(co_await write_byte(*file, 0, 8192, 5), EIO);
      co_await file->close();
    };
    env.run(body(env));
    const SparseBytes& disk = env.storage().content("disk");
    expect_sectors_among(disk, 0, 8192, {0, 5});
    for (uint64_t at = 0; at < 8192; at += kSector) {
      byte_at(disk, at) == 5 ? ++changed : ++unchanged;
    }
  });
  EXPECT_GT(changed, 100);
  EXPECT_GT(unchanged, 100);
}

Task<void> failed_flush(SimEnv& env) {
  const auto file = co_await open(env, "disk");
  EXPECT_EQ(co_await write_byte(*file, 0, 8192, 1), 0);
  EXPECT_EQ((co_await file->flush()).error().number(), EIO);
  EXPECT_TRUE((co_await file->flush()).has_value());
  EXPECT_EQ((co_await read_bytes(*file, 0, 512))[0], 1);
  env.storage().power_off();
  co_await file->close();
}

TEST(SimStorage, AFlushAfterAFailedOneDoesNotRepairIt) {
  int lost = 0;
  for_each_seed(50, [&lost](uint64_t seed) {
    SimEnv env(seed);
    env.storage().put("disk", SparseBytes(8192));
    FaultRule rule;
    rule.requests = kSimFlush;
    env.storage().add_fault(rule);
    env.run(failed_flush(env));
    const SparseBytes disk = env.storage().crash_image(CrashSubset::all()).at("disk");
    expect_sectors_among(disk, 0, 8192, {0, 1});
    for (uint64_t at = 0; at < 8192; at += kSector) lost += byte_at(disk, at) == 0 ? 1 : 0;
  });
  EXPECT_GT(lost, 50);
}

Task<void> held(SimEnv& env) {
  SimStorage& storage = env.storage();
  storage.put("disk", SparseBytes(65536));
  const auto file = co_await open(env, "disk");
  FaultRule rule;
  rule.requests = kSimWrite;
  rule.offset = 4096;
  rule.length = 4096;
  rule.error = 0;
  rule.hold = true;
  const auto id = storage.add_fault(rule);
  Gate gate(env.executor());
  bool done = false;
  const auto writer = [](File& f, bool& ended) -> Task<void> {
    EXPECT_EQ(co_await write_byte(f, 4096, 512, 8), 0);
    ended = true;
  };
  gate.spawn(writer(*file, done));
  co_await storage.wait_for_hits(id, 1);
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 9), 0);
  co_await env.sleep(1'000'000'000);
  EXPECT_FALSE(done);
  storage.release(id);
  co_await gate.close();
  EXPECT_TRUE(done);
  EXPECT_EQ((co_await read_bytes(*file, 4096, 1))[0], 8);
  co_await file->close();
}

TEST(SimStorage, ARuleCanHoldARequest) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(held(env));
  });
}

Task<void> full(SimEnv& env) {
  env.storage().set_capacity(16384);
  const auto file = co_await open(env, "disk");
  EXPECT_EQ(co_await write_byte(*file, 0, 12288, 1), 0);
  EXPECT_EQ(co_await write_byte(*file, 65536, 8192, 1), ENOSPC);
  EXPECT_EQ(co_await write_byte(*file, 0, 12288, 2), 0);
  EXPECT_TRUE((co_await file->discard(0, 8192)).has_value());
  EXPECT_EQ(co_await write_byte(*file, 65536, 8192, 1), 0);
  co_await file->close();
}

TEST(SimStorage, CanBeFull) {
  SimEnv env(1);
  env.run(full(env));
}

Task<void> one_full(SimEnv& env) {
  const auto file = co_await open(env, "disk");
  const auto other = co_await open(env, "other");
  env.storage().set_capacity("disk", 4096);
  EXPECT_EQ(co_await write_byte(*file, 0, 4096, 1), 0);
  EXPECT_EQ(co_await write_byte(*file, 8192, 512, 1), ENOSPC);
  EXPECT_EQ(co_await write_byte(*file, 512, 512, 2), 0);
  EXPECT_EQ(co_await write_byte(*other, 8192, 512, 1), 0);
  EXPECT_EQ(env.storage().refused_for_space("disk"), 1u);
  EXPECT_EQ(env.storage().refused_for_space("other"), 0u);
  env.storage().set_capacity("disk", std::nullopt);
  EXPECT_EQ(co_await write_byte(*file, 8192, 512, 1), 0);
  co_await file->close();
  co_await other->close();
}

TEST(SimStorage, OneFileCanBeFull) {
  SimEnv env(1);
  env.run(one_full(env));
}

Task<void> locks(SimEnv& env) {
  const auto one = co_await open(env, "disk");
  const auto two = co_await open(env, "disk");
  const auto elsewhere = co_await open(env, "other");
  EXPECT_TRUE(*one->try_lock_shared(100, 4));
  EXPECT_TRUE(*two->try_lock_shared(101, 1));
  EXPECT_TRUE(*one->is_locked_by_others(101, 1));
  EXPECT_FALSE(*one->is_locked_by_others(102, 1));
  EXPECT_TRUE(*two->is_locked_by_others(103, 1));
  EXPECT_FALSE(*elsewhere->is_locked_by_others(100, 8));
  EXPECT_TRUE(one->unlock(101, 1).has_value());
  EXPECT_FALSE(*two->is_locked_by_others(101, 1));
  EXPECT_TRUE(*two->is_locked_by_others(102, 1));
  FileOpenOptions read_only;
  EXPECT_TRUE((co_await one->reopen(read_only)).has_value());
  EXPECT_TRUE(*two->is_locked_by_others(102, 1));
  EXPECT_EQ(co_await write_byte(*one, 0, 512, 1), EBADF);
  co_await one->close();
  EXPECT_FALSE(*two->is_locked_by_others(102, 1));
  co_await two->close();
  co_await elsewhere->close();
}

TEST(SimStorage, HasLocks) {
  SimEnv env(1);
  env.run(locks(env));
}

Task<void> names(SimEnv& env) {
  FileOpenOptions options;
  EXPECT_EQ((co_await env.open_file("none", options)).error().number(), ENOENT);
  EXPECT_EQ((co_await env.unlink("none")).error().number(), ENOENT);
  env.storage().put("fixed", SparseBytes(512));
  env.storage().set_read_only("fixed", true);
  EXPECT_EQ((co_await env.open_file("fixed", writable())).error().number(), EACCES);
  const auto file = co_await open(env, "gone");
  EXPECT_EQ(co_await write_byte(*file, 0, 512, 1), 0);
  EXPECT_TRUE((co_await env.unlink("gone")).has_value());
  EXPECT_FALSE(env.storage().exists("gone"));
  EXPECT_EQ((co_await read_bytes(*file, 0, 512))[0], 1);
  co_await file->close();

  env.storage().put_device("dev", SparseBytes(8192));
  const auto device = co_await open(env, "dev");
  EXPECT_EQ(device->kind(), FileKind::kBlockDevice);
  EXPECT_EQ(co_await write_byte(*device, 8000, 512, 1), ENOSPC);
  EXPECT_EQ((co_await device->truncate(4096, FilePreallocation::kOff)).error().number(), ENOTSUP);
  co_await device->close();
}

TEST(SimStorage, HasNames) {
  SimEnv env(1);
  env.run(names(env));
}

Task<void> copy(SimEnv& env) {
  const auto from = co_await open(env, "from");
  const auto to = co_await open(env, "to");
  EXPECT_EQ(co_await write_byte(*from, 512, 1024, 3), 0);
  EXPECT_TRUE((co_await to->copy_from(*from, 512, 4096, 2048)).has_value());
  const auto bytes = co_await read_bytes(*to, 4096, 2048);
  EXPECT_EQ(bytes[0], 3);
  EXPECT_EQ(bytes[1023], 3);
  EXPECT_EQ(bytes[1024], 0);
  EXPECT_EQ((co_await to->info())->size, 6144U);
  EXPECT_EQ((co_await to->copy_from(*to, 0, 100, 200)).error().number(), ENOTSUP);
  SimAbilities none;
  none.zero = none.discard = none.copy = none.extents = false;
  env.storage().set_abilities(none);
  EXPECT_EQ((co_await to->copy_from(*from, 0, 0, 512)).error().number(), ENOTSUP);
  EXPECT_EQ((co_await to->zero(0, 512, true)).error().number(), ENOTSUP);
  EXPECT_EQ((co_await to->discard(0, 512)).error().number(), ENOTSUP);
  EXPECT_TRUE((co_await to->extent(0, 6144))->data);
  co_await from->close();
  co_await to->close();
}

TEST(SimStorage, CopiesAndRefuses) {
  SimEnv env(2);
  env.run(copy(env));
}

}  // namespace
}  // namespace blockbed::sim
