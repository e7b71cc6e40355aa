// Persistent bitmaps made by qemu-img and read here, and the other way round; directories that are
// wrong are refused in the words of qemu-io.
#include <fmt/format.h>

#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "block/formats/qcow2/endian.h"
#include "block/runtime/production_env.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/edit.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

using Bits = std::vector<uint8_t>;

struct Found {
  uint32_t flags = 0;
  uint8_t granularity_bits = 0;
  Bits bits;
};

Task<std::map<std::string, Found>> read_ours(Env& env, std::string path) {
  std::map<std::string, Found> found;
  auto opened = co_await open_image(env, path, MetadataOptions());
  EXPECT_TRUE(opened);
  if (!opened) co_return found;
  const Header& header = (*opened)->image->header();
  auto directory = co_await load_directory(*(*opened)->storage, header);
  EXPECT_TRUE(directory);
  for (const StoredBitmap& b : *directory) {
    PlainBits bits(bits_needed(header.size, b.granularity_bits));
    auto loaded = co_await load_bits(*(*opened)->storage, header, b, bits);
    EXPECT_TRUE(loaded) << loaded.error().description;
    EXPECT_FALSE(bits.beyond);
    found[b.name] = Found{b.flags, b.granularity_bits, bits.bits()};
  }
  co_await (*opened)->abandon();
  co_return found;
}

Task<Expected<void>> store_ours(Env& env, std::string path, std::vector<BitmapToStore> bitmaps) {
  auto opened = co_await open_image(env, path, writable_options());
  EXPECT_TRUE(opened);
  auto stored = co_await store_bitmaps((*opened)->image->metadata(), std::move(bitmaps));
  EXPECT_TRUE(co_await (*opened)->close());
  co_return stored;
}

Task<Expected<void>> may_store_ours(Env& env, std::string path, BitmapToStore bitmap) {
  auto opened = co_await open_image(env, path, writable_options());
  EXPECT_TRUE(opened);
  Metadata& metadata = (*opened)->image->metadata();
  auto may = co_await can_store_bitmap(metadata.file(), metadata.header(), bitmap, {});
  EXPECT_TRUE(co_await (*opened)->close());
  co_return may;
}

Task<Expected<void>> remove_ours(Env& env, std::string path, std::string name) {
  auto opened = co_await open_image(env, path, writable_options());
  EXPECT_TRUE(opened);
  auto removed = co_await remove_bitmap((*opened)->image->metadata(), name);
  EXPECT_TRUE(co_await (*opened)->close());
  co_return removed;
}

class Qcow2BitmapsInterop : public ToolTest {
 protected:
  // As an export of qemu-nbd shows it, of a copy: a writable export changes flags.
  Bits theirs(const std::string& image, const std::string& name, const Found& like) const {
    tool(fmt::format("cp {} copy.qcow2", image));
    const ToolResult map = run_tool(fmt::format(
        "cd {} && nbdinfo --map=qemu:dirty-bitmap:{} -- [ qemu-nbd -f qcow2 -B {} copy.qcow2 ]",
        directory_, name, name));
    EXPECT_EQ(map.status, 0) << map.output;
    PlainBits bits(like.bits.size());
    std::istringstream lines(map.output);
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t type = 0;
    std::string words;
    while (lines >> offset >> length >> type && std::getline(lines, words)) {
      const uint64_t g = uint64_t{1} << like.granularity_bits;
      if ((type & 1) != 0) bits.set(offset / g, (offset + length + g - 1) / g);
    }
    return bits.bits();
  }
  std::string checked(const std::string& image) const {
    const ToolResult check = run_tool("cd " + directory_ + " && qemu-img check " + image);
    return check.status == 0 ? std::string() : check.output;
  }
};

TEST_F(Qcow2BitmapsInterop, TheirsReadHere) {
  ProductionEnv env;
  for (const char* cluster : {"512", "4k", "64k", "2M"}) {
    for (const uint32_t granularity : {512u, 4096u, 65536u, 1u << 26}) {
      SCOPED_TRACE(fmt::format("clusters of {}, granularity {}", cluster, granularity));
      tool(
          fmt::format("rm -f t.qcow2 && qemu-img create -q -f qcow2 -o cluster_size={} t.qcow2 "
                      "{}",
                      cluster, 67 * 1024 * 1024 + 1536));
      tool(fmt::format("qemu-img bitmap --add -g {} t.qcow2 on", granularity));
      tool(fmt::format("qemu-img bitmap --add -g {} t.qcow2 cleared", granularity));
      tool(
          "qemu-io -c 'write 0 3M' -c 'write 5001k 1k' -c 'write 60M 7M' -c 'write 70255616 512' "
          "t.qcow2 > out");
      tool(
          fmt::format("qemu-img bitmap --clear t.qcow2 cleared && qemu-img bitmap --add --disable "
                      "-g {} t.qcow2 off && qemu-io -c 'write 8M 8M' t.qcow2 > out && qemu-img "
                      "bitmap --merge on t.qcow2 off && qemu-img bitmap --add t.qcow2 gone && "
                      "qemu-img bitmap --remove t.qcow2 gone",
                      granularity));
      const auto ours = env.run_until_complete(read_ours(env, path("t.qcow2")));
      ASSERT_EQ(ours.size(), 3u);
      EXPECT_EQ(ours.at("on").flags, bitmap_flag::kAuto);
      EXPECT_EQ(ours.at("off").flags, 0u);
      EXPECT_GT(std::ranges::count(ours.at("on").bits, 1), 0);
      EXPECT_EQ(ours.at("on").bits, ours.at("off").bits);
      for (const auto& [name, found] : ours) {
        EXPECT_EQ(found.bits, theirs("t.qcow2", name, found)) << name;
      }
    }
  }
}

TEST_F(Qcow2BitmapsInterop, OursReadThere) {
  ProductionEnv env;
  std::mt19937_64 random(1);
  for (const char* cluster : {"512", "4k", "64k", "2M"}) {
    for (const uint8_t granularity_bits : {9, 12, 16, 31}) {
      SCOPED_TRACE(fmt::format("clusters of {}, granularity 2^{}", cluster, granularity_bits));
      const uint64_t size = 67 * 1024 * 1024 + 1536;
      tool(fmt::format("rm -f o.qcow2 && qemu-img create -q -f qcow2 -o cluster_size={} o.qcow2 {}",
                       cluster, size));
      tool("qemu-img bitmap --add o.qcow2 before");
      const uint64_t bits = bits_needed(size, granularity_bits);
      PlainBits some(bits);
      for (int i = 0; i < 20; ++i) {
        const uint64_t begin = random() % bits;
        some.set(begin, begin + random() % 100);
      }
      PlainBits most(bits);
      most.set(bits / 7, bits);
      PlainBits all(bits);
      all.set(0, bits);
      PlainBits none(bits);
      std::vector<BitmapToStore> store;
      for (const auto& [name, source] : std::map<std::string, const PlainBits*>{
               {"some", &some}, {"most", &most}, {"all", &all}, {"none", &none}}) {
        BitmapToStore one;
        one.name = name;
        one.granularity_bits = granularity_bits;
        one.enabled = name != "most";
        one.bits = source;
        store.push_back(one);
      }
      // Twice: the first ones are replaced.
      for (int i = 0; i < 2; ++i) {
        auto stored = env.run_until_complete(store_ours(env, path("o.qcow2"), store));
        ASSERT_TRUE(stored) << stored.error().description;
        EXPECT_EQ(checked("o.qcow2"), "");
      }
      for (const BitmapToStore& one : store) {
        const auto& source = static_cast<const PlainBits&>(*one.bits);
        const Found like{0, granularity_bits, source.bits()};
        EXPECT_EQ(theirs("o.qcow2", one.name, like), source.bits()) << one.name;
      }
      const std::string info = run_tool("qemu-img info " + path("o.qcow2")).output;
      EXPECT_NE(info.find("name: before"), std::string::npos) << info;
      EXPECT_EQ(info.find("in-use"), std::string::npos) << info;
      // They change it, and give it back.
      tool("qemu-img bitmap --remove o.qcow2 all && qemu-img bitmap --merge some o.qcow2 most");
      const auto ours = env.run_until_complete(read_ours(env, path("o.qcow2")));
      ASSERT_EQ(ours.size(), 4u);
      EXPECT_EQ(ours.at("some").bits, some.bits());
      EXPECT_EQ(ours.at("most").flags, 0u);
      for (uint64_t i = 0; i < bits; ++i) most.bits()[i] |= some.bits()[i];
      EXPECT_EQ(ours.at("most").bits, most.bits());
      for (const auto& [name, found] : ours) {
        auto removed = env.run_until_complete(remove_ours(env, path("o.qcow2"), name));
        EXPECT_TRUE(removed);
        EXPECT_EQ(checked("o.qcow2"), "");
      }
      const std::string empty = run_tool("qemu-img info " + path("o.qcow2")).output;
      EXPECT_EQ(empty.find("bitmaps"), std::string::npos) << empty;
    }
  }
}

// --- what is wrong

struct Case {
  const char* name;
  std::vector<Edit> edits;
};

// What stands in the way of reading all bitmaps, or nothing.
Task<std::string> ours_of(Env& env, std::string path) {
  auto opened = co_await open_image(env, path, writable_options());
  if (!opened) co_return opened.error().description;
  const Header& header = (*opened)->image->header();
  auto directory = co_await load_directory(*(*opened)->storage, header);
  std::string text = directory ? "" : directory.error().description;
  for (std::size_t i = 0; directory && text.empty() && i < directory->size(); ++i) {
    const StoredBitmap& b = (*directory)[i];
    if (b.in_use()) continue;
    PlainBits bits(bits_needed(header.size, b.granularity_bits));
    auto loaded = co_await load_bits(*(*opened)->storage, header, b, bits);
    if (!loaded) text = loaded.error().description;
  }
  co_await (*opened)->abandon();
  co_return text;
}

// Whatever the directory says: an error or done, and the disk's data stay.
Task<void> handle(Env& env, std::string path) {
  auto opened = co_await open_image(env, path, writable_options());
  if (!opened) co_return;
  Image& image = *(*opened)->image;
  PlainBits bits(bits_needed(image.length(), 16));
  bits.set(0, 9);
  BitmapToStore one;
  one.name = "aa";
  one.bits = &bits;
  (void)co_await store_bitmaps(image.metadata(), {one});
  (void)co_await remove_bitmap(image.metadata(), "bb");
  std::vector<std::byte> sector(512, std::byte{3});
  (void)co_await image.write(0, IoVector(sector.data(), sector.size()));
  std::vector<std::byte> data(65536);
  EXPECT_TRUE(co_await image.read(1 << 20, IoVector(data.data(), data.size())));
  EXPECT_EQ(data, std::vector<std::byte>(65536, std::byte{0xcd}));
  (void)co_await (*opened)->close();
}

TEST_F(Qcow2BitmapsInterop, TheSameWords) {
  tool(
      "qemu-img create -q -f qcow2 b.qcow2 64M && qemu-img bitmap --add b.qcow2 aa && qemu-img "
      "bitmap --add b.qcow2 bb && qemu-io -c 'write 1M 1M' b.qcow2 > out");
  const std::string base = slurp(path("b.qcow2"));
  const uint64_t extension = base.find(std::string("\x23\x85\x28\x75", 4));
  ASSERT_NE(extension, std::string::npos);
  const uint64_t size = load_be64(base.data() + extension + 16);
  const uint64_t d = load_be64(base.data() + extension + 24);
  const uint64_t table = load_be64(base.data() + d);
  auto u32 = [](uint64_t at, uint32_t value) { return put<uint32_t>(at, value); };
  auto u64 = [](uint64_t at, uint64_t value) { return put<uint64_t>(at, value); };
  auto u16 = [](uint64_t at, uint16_t value) { return put<uint16_t>(at, value); };
  auto u8 = [](uint64_t at, uint8_t value) { return put<uint8_t>(at, value); };
  const std::vector<Case> cases = {
      {"as it is", {}},
      {"reserved flag", {u32(d + 12, 8)}},
      {"type", {u8(d + 16, 2)}},
      {"granularity 8", {u8(d + 17, 8)}},
      {"granularity 32", {u8(d + 17, 32)}},
      {"no table", {u32(d + 8, 0)}},
      {"table nowhere", {u64(d, 0)}},
      {"table unaligned", {u64(d, table + 512)}},
      {"table of 512 MiB", {u32(d + 8, 8192)}},
      {"one more", {u32(d + 8, 8193)}},
      {"table too long", {u32(d + 8, 2)}},
      {"name of 1024", {u16(d + 18, 1024)}},
      {"entry with a reserved bit", {u64(table, 2)}},
      {"entry with a high bit", {u64(table, uint64_t{1} << 60)}},
      {"entry unaligned", {u64(table, 0x50200)}},
      {"entry of ones", {u64(table, 1)}},
      {"entry of ones somewhere", {u64(table, 0x50001)}},
      {"one more than counted", {u32(extension + 8, 1)}},
      {"one less than counted", {u32(extension + 8, 3)}},
      {"directory cut", {u64(extension + 16, size - 8)}},
      {"directory with a rest", {u64(extension + 16, size + 8)}},
      {"directory with zeroes", {u64(extension + 16, size + 32)}},
      {"not up to date", {u64(88, 0)}},
      {"in use", {u32(d + 12, 3)}},
  };
  // Where QEMU is content, or has other words.
  const std::vector<Case> own = {
      {"table outside", {u64(d, uint64_t{1} << 40)}},
      {"entry outside", {u64(table, uint64_t{1} << 40)}},
      {"extra data", {u32(d + 20, 8)}},
      {"the same name", {u8(d + 32 + 24, 'a'), u8(d + 32 + 25, 'a')}},
      {"table over the header", {u64(d, 65536), u64(d + 32, 65536)}},
      {"tables the same", {u64(d + 32, table)}},
      {"table is the directory", {u64(d, d)}},
      {"entry is the directory", {u64(table, d)}},
      {"entry is the refcount table", {u64(table, 65536)}},
      {"entry is the L1 table", {u64(table, load_be64(base.data() + 40))}},
  };
  ProductionEnv env;
  auto make = [&](const Case& c) {
    std::string image = base;
    for (const Edit& edit : c.edits) image.replace(edit.offset, edit.bytes.size(), edit.bytes);
    std::ofstream(path("m.qcow2"), std::ios::binary) << image;
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    make(c);
    const std::string ours = env.run_until_complete(ours_of(env, path("m.qcow2")));
    const std::string output =
        run_tool("cd " + directory_ + " && qemu-io -c 'read 0 512' m.qcow2").output;
    const std::string prefix = "qemu-io: can't open device m.qcow2: ";
    std::string expected;
    if (const auto at = output.find(prefix); at != std::string::npos) {
      expected = output.substr(at + prefix.size());
      expected.resize(std::min(expected.find('\n'), expected.size()));
    }
    EXPECT_EQ(ours, expected) << output;
    make(c);
    env.run_until_complete(handle(env, path("m.qcow2")));
  }
  for (const Case& c : own) {
    SCOPED_TRACE(c.name);
    make(c);
    env.run_until_complete(handle(env, path("m.qcow2")));
  }
  for (const std::size_t outside : {std::size_t{0}, std::size_t{1}}) {
    make(own[outside]);
    EXPECT_EQ(env.run_until_complete(ours_of(env, path("m.qcow2"))),
              "Could not read bitmap_table table from image for bitmap 'aa': Invalid argument");
  }
}

// What somebody else keeps under a name, and says not to be harmless, is neither replaced nor lost.
TEST_F(Qcow2BitmapsInterop, UnknownExtraDataIsKept) {
  tool("qemu-img create -q -f qcow2 e.qcow2 64M && qemu-img bitmap --add e.qcow2 aa");
  std::string image = slurp(path("e.qcow2"));
  const uint64_t extension = image.find(std::string("\x23\x85\x28\x75", 4));
  ASSERT_NE(extension, std::string::npos);
  const uint64_t d = load_be64(image.data() + extension + 24);
  const std::string extra = "whatever";
  for (const Edit& edit : {put<uint32_t>(d + 20, 8), put<uint64_t>(extension + 16, 40)}) {
    image.replace(edit.offset, edit.bytes.size(), edit.bytes);
  }
  image.replace(d + 24, 16, extra + "aa" + std::string(6, '\0'));
  std::ofstream(path("e.qcow2"), std::ios::binary) << image;

  ProductionEnv env;
  PlainBits bits(1024);
  auto stored = [&](const char* name) {
    BitmapToStore one;
    one.name = name;
    one.bits = &bits;
    return env.run_until_complete(store_ours(env, path("e.qcow2"), {one}));
  };
  const auto refused = stored("aa");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().description,
            "Bitmap already exists: aa: Bitmap extra data is not supported");
  EXPECT_TRUE(stored("bb"));
  const std::string after = slurp(path("e.qcow2"));
  const uint64_t now = load_be64(after.data() + extension + 24);
  EXPECT_NE(now, d);
  EXPECT_EQ(after.substr(now, 40), image.substr(d, 40));
  // The same words.
  EXPECT_EQ(checked("e.qcow2"),
            "qemu-img: Could not open 'e.qcow2': Bitmap extra data is not supported\n");
}

TEST_F(Qcow2BitmapsInterop, WhatCannotBeStored) {
  ProductionEnv env;
  PlainBits bits(1);
  // The same when it is made and when it is to be stored, where it is named besides.
  auto told = [&](const std::string& image, BitmapToStore one) {
    one.bits = &bits;
    const auto may = env.run_until_complete(may_store_ours(env, path(image), one));
    const auto stored = env.run_until_complete(store_ours(env, path(image), {one}));
    EXPECT_EQ(may.has_value(), stored.has_value());
    if (may) return std::string();
    EXPECT_EQ(
        stored.error().description,
        "Bitmap '" + one.name + "' doesn't satisfy the constraints: " + may.error().description);
    return may.error().description;
  };
  tool(
      "qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M && qemu-img create -q -f qcow2 -o "
      "cluster_size=2M big.qcow2 4T && qemu-img create -q -f qcow2 s.qcow2 64k");
  BitmapToStore one;
  one.name = "a";
  EXPECT_EQ(told("v2.qcow2", one), "Cannot store dirty bitmaps in qcow2 v2 files");
  one.granularity_bits = 9;
  EXPECT_EQ(told("big.qcow2", one),
            "Too much space will be occupied by the bitmap. Use larger granularity");
  one.granularity_bits = 32;
  EXPECT_EQ(told("s.qcow2", one), "Granularity exceeds maximum (2147483648 bytes)");
  one.granularity_bits = 8;
  EXPECT_EQ(told("s.qcow2", one), "Granularity is under minimum (512 bytes)");
  one.granularity_bits = 16;
  one.name = std::string(1024, 'n');
  EXPECT_EQ(told("s.qcow2", one), "Name length exceeds maximum (1023 characters)");
  one.name = std::string(1023, 'n');
  EXPECT_EQ(told("s.qcow2", one), "");
  EXPECT_EQ(checked("s.qcow2"), "");
}

}  // namespace
}  // namespace blockbed::qcow2::test
