// What is wrong with a header is told in the words of qemu-io on the same bytes.
#include <fmt/format.h>

#include <fstream>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/endian.h"
#include "block/runtime/production_env.h"
#include "tests/qcow2/edit.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/tools_fixture.h"

namespace blockbed::qcow2::test {
namespace {

Edit u32(uint64_t offset, uint32_t value) { return put<uint32_t>(offset, value); }
Edit u64(uint64_t offset, uint64_t value) { return put<uint64_t>(offset, value); }

std::string bitmaps_extension(uint32_t count, uint32_t reserved, uint64_t size, uint64_t offset) {
  std::string bytes(40, '\0');
  store_be<uint32_t>(bytes.data(), 0x23852875u);
  store_be<uint32_t>(bytes.data() + 4, 24u);
  store_be<uint32_t>(bytes.data() + 8, count);
  store_be<uint32_t>(bytes.data() + 12, reserved);
  store_be64(bytes.data() + 16, size);
  store_be64(bytes.data() + 24, offset);
  return bytes;
}

struct Case {
  const char* name;
  std::vector<Edit> edits;
  bool read_only = false;
  uint64_t cut = UINT64_MAX;
};

std::vector<Case> cases() {
  constexpr uint64_t kExtension = 0x70;
  return {
      {"magic", {u32(0, 0)}},
      {"version 1", {u32(4, 1)}},
      {"version 4", {u32(4, 4)}},
      {"clusters of 2^8", {u32(20, 8)}},
      {"clusters of 2^22", {u32(20, 22)}},
      {"short header", {u32(100, 96)}},
      {"odd header", {u32(100, 105)}},
      {"huge header", {u32(100, 65544)}},
      {"header of a cluster", {u32(100, 65536)}},
      {"backing name outside", {u64(8, 65537), u32(16, 1)}},
      {"backing name long", {u64(8, 0x200), u32(16, 1024)}},
      {"backing name over the end", {u64(8, 65530), u32(16, 20)}},
      {"unknown feature", {u64(72, 1 << 5)}},
      {"unknown features", {u64(72, (uint64_t{1} << 62) | 32)}},
      {"unknown feature, no table", {u64(72, 32), u32(kExtension, 0)}},
      {"named feature", {u64(72, 32), {0x78, std::string("\0\5my feature\0\0", 14)}}},
      {"corrupt", {u64(72, 2)}},
      {"corrupt, read-only", {u64(72, 2)}, true},
      {"compression bit alone", {u64(72, 8)}},
      {"compression type alone", {{104, "\1"}}},
      {"unknown compression", {u64(72, 8), {104, "\2"}}},
      {"subclusters of 256 bytes", {u64(72, 16), u32(20, 13)}},
      {"refcount order", {u32(96, 7)}},
      {"encryption 3", {u32(32, 3)}},
      {"no refcount table", {u32(56, 0)}},
      {"huge refcount table", {u32(56, 0x7fffffff)}},
      {"refcount table one too large", {u32(56, 129)}},
      {"refcount table largest", {u32(56, 128)}},
      {"refcount table unaligned", {u64(48, 0x10200)}},
      {"refcount table at 2^63", {u64(48, uint64_t{1} << 63)}},
      {"refcount table near 2^63", {u64(48, (uint64_t{1} << 63) - 65536)}},
      {"no L1", {u32(36, 0)}},
      {"L1 one too large", {u32(36, 4194305)}},
      {"L1 largest", {u32(36, 4194304)}},
      {"L1 unaligned", {u64(40, 0x30200)}},
      {"L1 at 0", {u64(40, 0)}},
      {"size 2^63", {u64(24, uint64_t{1} << 63)}},
      {"size too big", {u64(24, (uint64_t{1} << 61) + (uint64_t{1} << 60))}},
      {"too many snapshots", {u32(60, 65537)}},
      {"snapshots unaligned", {u32(60, 1), u64(64, 0x200)}},
      {"extension huge", {u32(kExtension, 0x12345678), u32(kExtension + 4, 0x7fffffff)}},
      {"extension one too long",
       {u32(kExtension, 0x12345678), u32(kExtension + 4, 65536 - 0x78 + 1)}},
      {"extension longest", {u32(kExtension, 0x12345678), u32(kExtension + 4, 65536 - 0x78)}},
      {"backing format long", {u32(kExtension, 0xe2792aca), u32(kExtension + 4, 20)}},
      {"crypto without luks", {u32(kExtension, 0x0537be77), u32(kExtension + 4, 16)}},
      {"bitmaps length", {u32(kExtension, 0x23852875), u32(kExtension + 4, 8), u64(88, 1)}},
      {"no bitmaps", {{kExtension, bitmaps_extension(0, 0, 0x100, 0x40000)}, u64(88, 1)}},
      {"bitmaps one too many",
       {{kExtension, bitmaps_extension(65536, 0, 0x100, 0x40000)}, u64(88, 1)}},
      {"bitmaps reserved", {{kExtension, bitmaps_extension(1, 1, 0x100, 0x40000)}, u64(88, 1)}},
      {"bitmap directory huge",
       {{kExtension, bitmaps_extension(1, 0, uint64_t{1} << 40, 0x40000)}, u64(88, 1)}},
      {"bitmap directory unaligned",
       {{kExtension, bitmaps_extension(1, 0, 32, 0x200)}, u64(88, 1)}},
      {"bitmap directory empty", {{kExtension, bitmaps_extension(1, 0, 0, 0x40000)}, u64(88, 1)}},
      {"bitmap directory outside",
       {{kExtension, bitmaps_extension(1, 0, 32, uint64_t{1} << 40)}, u64(88, 1)}},
      {"bitmaps bit without extension", {u64(88, 1)}},
      {"raw data without data file", {u64(88, 2)}},
      {"unknown autoclear bit", {u64(88, uint64_t{1} << 40)}},
      {"version 2 with feature bytes", {u32(4, 2), u64(72, 32)}},
      {"60 bytes", {}, false, 60},
      {"100 bytes", {}, false, 100},
      {"empty", {}, false, 0},
      {"cut behind the refcount block", {}, false, 0x30000},
      {"cut before the refcount table", {}, false, 0x10000},
      {"feature table of odd length", {u32(0x74, 50)}},
  };
}

class HeaderInterop : public ToolTest {};

TEST_F(HeaderInterop, TheSameWords) {
  tool("qemu-img create -q -f qcow2 base.qcow2 64M");
  const std::string base = slurp(path("base.qcow2"));
  ProductionEnv env;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    std::string image = base.substr(0, c.cut);
    for (const Edit& edit : c.edits) image.replace(edit.offset, edit.bytes.size(), edit.bytes);
    std::ofstream(path("m.qcow2"), std::ios::binary) << image;
    const ToolResult theirs =
        run_tool(fmt::format("cd {} && qemu-io {} -f qcow2 m.qcow2 -c 'read 0 512'", directory_,
                             c.read_only ? "-r" : ""));
    const std::string prefix = "qemu-io: can't open device m.qcow2: ";
    std::string expected;
    if (const auto at = theirs.output.find(prefix); at != std::string::npos) {
      expected = theirs.output.substr(at + prefix.size());
      expected.resize(std::min(expected.find('\n'), expected.size()));
    }
    MetadataOptions options = writable_options();
    options.writable = !c.read_only;
    const std::string ours = env.run_until_complete(
        [](ProductionEnv& e, std::string file, MetadataOptions o) -> Task<std::string> {
          auto opened = co_await open_image(e, file, o);
          if (!opened) co_return opened.error().description;
          auto bitmaps = co_await load_directory(*(*opened)->storage, (*opened)->image->header());
          co_await (*opened)->abandon();
          co_return bitmaps ? std::string() : bitmaps.error().description;
        }(env, path("m.qcow2"), options));
    EXPECT_EQ(ours, expected) << theirs.output;
  }
}

}  // namespace
}  // namespace blockbed::qcow2::test
