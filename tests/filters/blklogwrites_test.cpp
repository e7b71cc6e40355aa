// blklogwrites: the log on disk, byte for byte, and logs that go on.
#include "block/filters/blklogwrites.h"

#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;

struct Logged {
  uint64_t sector, sectors, flags;
  std::vector<std::byte> data;
};

uint64_t number(const std::vector<std::byte>& bytes, uint64_t at, int size = 8) {
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) value |= static_cast<uint64_t>(bytes.at(at + i)) << (8 * i);
  return value;
}

class BlklogwritesTest : public testing::Test {
 public:
  BlklogwritesTest() : world(1) {
    world.file("disk", sim::SparseBytes(64 * kKiB));
    world.file("log", sim::SparseBytes(0));
  }
  Node& make(json::Object more = {}) {
    json::Object options = world.options("blklogwrites", "b");
    options.set("file", "disk");
    options.set("log", "log");
    options.set("discard", "unmap");
    for (const auto& [key, value] : more) options.set(key, value);
    return world.open(std::move(options));
  }
  static json::Object with(const char* key, json::Value value) {
    json::Object result;
    result.set(key, std::move(value));
    return result;
  }
  // What the superblock vouches for.
  std::vector<Logged> entries(uint64_t sector_size = 512) {
    const auto bytes = world.content("log");
    EXPECT_EQ(number(bytes, 0), 0x6a736677736872u);
    EXPECT_EQ(number(bytes, 8), 1u);
    EXPECT_EQ(number(bytes, 24, 4), sector_size);
    std::vector<Logged> result;
    uint64_t at = sector_size;
    for (uint64_t i = 0; i < number(bytes, 16); ++i) {
      Logged entry{number(bytes, at), number(bytes, at + 8), number(bytes, at + 16), {}};
      at += sector_size;
      if ((entry.flags & 4) == 0) {
        const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        const uint64_t length = entry.sectors * sector_size;
        entry.data.assign(begin, begin + static_cast<std::ptrdiff_t>(length));
        at += length;
      }
      result.push_back(std::move(entry));
    }
    return result;
  }

  test::FilterWorld world;
};

TEST_F(BlklogwritesTest, EveryKindOfRequest) {
  Backend& guest = world.guest(make());
  ASSERT_TRUE(world.write(guest, 4096, 1024, 7));
  ASSERT_TRUE(world.env.run(guest.zero(8192, 512)));
  ASSERT_TRUE(world.env.run(guest.discard(16384, 4096)));
  ASSERT_TRUE(world.write(guest, 0, 512, 8));
  ASSERT_TRUE(world.env.run(guest.flush()));
  const auto log = entries();
  ASSERT_EQ(log.size(), 5u);
  EXPECT_EQ(log[0].sector, 8u);
  EXPECT_EQ(log[0].sectors, 2u);
  EXPECT_EQ(log[0].flags, 0u);
  EXPECT_EQ(log[0].data, std::vector<std::byte>(1024, std::byte{7}));
  EXPECT_EQ(log[1].sector, 16u);
  EXPECT_EQ(log[1].data, std::vector<std::byte>(512));
  EXPECT_EQ(log[2].flags, 4u);
  EXPECT_EQ(log[2].sectors, 8u);
  EXPECT_EQ(log[3].data, std::vector<std::byte>(512, std::byte{8}));
  EXPECT_EQ(log[4].flags, 1u);
  EXPECT_EQ(log[4].sectors, 0u);
}

TEST_F(BlklogwritesTest, FuaIsLogged) {
  Backend& guest = world.guest(make());
  ASSERT_TRUE(world.write(guest, 0, 512, 1, RequestFlags().with_fua()));
  ASSERT_TRUE(world.env.run(guest.flush()));
  EXPECT_EQ(entries().at(0).flags, 2u);
}

TEST_F(BlklogwritesTest, TheSuperblockFollowsAfterTheInterval) {
  Backend& guest = world.guest(make(with("log-super-update-interval", 3)));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(world.write(guest, 0, 512, 1));
  EXPECT_EQ(number(world.content("log"), 0), 0u);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(world.write(guest, 0, 512, 1));
  EXPECT_EQ(entries().size(), 3u);
  ASSERT_TRUE(world.write(guest, 0, 512, 1));
  EXPECT_EQ(entries().size(), 6u);
}

TEST_F(BlklogwritesTest, ALogGoesOn) {
  Node& first = make(with("log-sector-size", 4096));
  EXPECT_EQ(first.limits().request_alignment, 4096u);
  Backend& guest = world.guest(first);
  ASSERT_TRUE(world.write(guest, 100, 10, 7));
  ASSERT_TRUE(world.env.run(guest.discard(8192, 4096)));
  ASSERT_TRUE(world.env.run(guest.flush()));
  world.drop_guests();
  world.drop(first);
  Backend& again = world.guest(make(with("log-append", true)));
  ASSERT_TRUE(world.write(again, 4096, 4096, 9));
  ASSERT_TRUE(world.env.run(again.flush()));
  const auto log = entries(4096);
  ASSERT_EQ(log.size(), 5u);
  EXPECT_EQ(log[0].data.at(100), std::byte{7});
  EXPECT_EQ(log[1].flags, 4u);
  EXPECT_EQ(log[3].sector, 1u);
  EXPECT_EQ(log[3].data, std::vector<std::byte>(4096, std::byte{9}));
}

TEST_F(BlklogwritesTest, AWriteThatFailedIsNotLoggedAndOneThatCannotBeFails) {
  Backend& guest = world.guest(make());
  sim::FaultRule rule;
  rule.path = "disk";
  rule.requests = sim::kSimWrite;
  world.env.storage().add_fault(rule);
  EXPECT_EQ(world.write(guest, 0, 512, 1).error().number(), EIO);
  rule.path = "log";
  rule.error = ENOSPC;
  world.env.storage().add_fault(rule);
  EXPECT_EQ(world.write(guest, 512, 512, 2).error().number(), ENOSPC);
  ASSERT_TRUE(world.write(guest, 1024, 512, 3));
  ASSERT_TRUE(world.env.run(guest.flush()));
  const auto log = entries();
  ASSERT_EQ(log.size(), 2u);
  EXPECT_EQ(log[0].sector, 2u);
}

TEST_F(BlklogwritesTest, Refusals) {
  const auto refused = [&](json::Object more) {
    json::Object options = world.options("blklogwrites", "x");
    options.set("file", "disk");
    options.set("log", "log");
    for (const auto& [key, value] : more) options.set(key, value);
    return world.refusal(std::move(options));
  };
  for (const int64_t size : {0, 1, 16, 1000, 16 << 20}) {
    EXPECT_EQ(refused(with("log-sector-size", size)),
              "Invalid log sector size " + std::to_string(size));
  }
  EXPECT_EQ(refused(with("log-super-update-interval", 0)),
            "Invalid log superblock update interval 0");
  json::Object both = with("log-append", true);
  both.set("log-sector-size", 512);
  EXPECT_EQ(refused(both), "log-append and log-sector-size are mutually exclusive");
}

// A log that somebody else made: super block, then one entry.
std::string append_to(uint64_t magic, uint64_t version, uint64_t entries, uint32_t sector_size,
                      uint64_t sectors = 1, uint64_t flags = 0) {
  test::FilterWorld world(1);
  std::vector<std::byte> bytes(4096);
  const auto put = [&](std::size_t at, uint64_t value, int size = 8) {
    for (int i = 0; i < size; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
  };
  put(0, magic);
  put(8, version);
  put(16, entries);
  put(24, sector_size, 4);
  put(512 + 8, sectors);
  put(512 + 16, flags);
  sim::SparseBytes content(4096);
  content.write(0, bytes);
  world.file("disk", sim::SparseBytes(4096));
  world.file("log", std::move(content));
  json::Object options = world.options("blklogwrites", "x");
  options.set("file", "disk");
  options.set("log", "log");
  options.set("log-append", true);
  auto opened = world.try_open(std::move(options));
  return opened ? "" : opened.error().description;
}

TEST(BlklogwritesAppend, WhatIsNoLogIsRefused) {
  constexpr uint64_t kMagic = 0x6a736677736872;
  EXPECT_EQ(append_to(kMagic, 1, 1, 512), "");
  EXPECT_EQ(append_to(0, 1, 1, 512), "Invalid log superblock magic");
  EXPECT_EQ(append_to(kMagic, 2, 1, 512), "Unsupported log version 2");
  EXPECT_EQ(append_to(kMagic, 1, 1, 100), "Invalid log sector size 100");
  EXPECT_EQ(append_to(kMagic, 1, ~uint64_t{0}, 512),
            "Invalid number of log entries 18446744073709551615");
  EXPECT_EQ(append_to(kMagic, 1, 1, 512, uint64_t{1} << 60), "Log entry 0 is too long");
  EXPECT_EQ(append_to(kMagic, 1, 1, 512, 1, 0x80), "Invalid flags in log entry 0");
}

}  // namespace
}  // namespace blockbed
