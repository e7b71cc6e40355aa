// What a shorter disk leaves behind: nothing.
#include <gtest/gtest.h>

#include <algorithm>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/endian.h"
#include "block/sim/sim_env.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/memory_storage.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 512;
// The last cluster that a table can name.
constexpr uint64_t kFarAway = (uint64_t{1} << 56) - kCluster;

class Shrink : public ::testing::Test {
 public:
  Task<std::unique_ptr<Image>> open() {
    auto header = co_await read_header(file_, true);
    EXPECT_TRUE(header);
    auto image = std::make_unique<Image>(env_, file_, nullptr, backing_, std::move(*header),
                                         writable_options());
    EXPECT_TRUE(co_await image->open());
    co_return image;
  }
  Task<void> create() {
    CreateOptions options;
    options.size = 16 * kCluster;
    options.cluster_size = kCluster;
    EXPECT_TRUE(co_await qcow2::create(env_, file_, nullptr, options));
  }
  Task<void> close(Image& image) {
    EXPECT_TRUE(co_await image.close());
    auto header = co_await read_header(file_, HeaderUse::kChecking);
    EXPECT_TRUE(header);
    auto report = co_await check_image(file_, *header);
    EXPECT_TRUE(report && report->clean()) << report->describe();
  }

  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  MemoryBacking backing_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(4 * kCluster, std::byte{7});
  Task<void> vm_state() {
    co_await create();
    auto image = co_await open();
    EXPECT_TRUE(co_await image->write_vm_state(0, IoVector(bytes_.data(), bytes_.size())));
    EXPECT_TRUE(co_await image->truncate(2 * kCluster, TruncateOptions()));
    co_await close(*image);
  }
  // The header says a shorter disk than the tables hold: nobody made it so, and it is no fault.
  Task<void> entries_behind_the_end() {
    co_await create();
    auto image = co_await open();
    EXPECT_TRUE(co_await image->write(0, IoVector(bytes_.data(), bytes_.size())));
    EXPECT_TRUE(co_await image->close());
    std::byte size[8];
    store_be64(size, kCluster);
    file_.bytes.write(field::kSize, size);
    image = co_await open();
    EXPECT_TRUE(co_await image->truncate(0, TruncateOptions()));
    co_await close(*image);
  }
  // Nor does it come back when the disk grows.
  Task<void> growing_over_entries_behind_the_end() {
    co_await create();
    auto image = co_await open();
    EXPECT_TRUE(co_await image->write(0, IoVector(bytes_.data(), bytes_.size())));
    EXPECT_TRUE(co_await image->close());
    std::byte size[8];
    store_be64(size, kCluster);
    file_.bytes.write(field::kSize, size);
    image = co_await open();
    EXPECT_TRUE(co_await image->truncate(16 * kCluster, TruncateOptions()));
    std::vector<std::byte> disk(16 * kCluster);
    EXPECT_TRUE(co_await image->read(0, IoVector(disk.data(), disk.size())));
    for (std::size_t at = 0; at < disk.size(); at += kCluster) {
      EXPECT_EQ(disk[at], at == 0 ? std::byte{7} : std::byte{0}) << at;
    }
    co_await close(*image);
  }
  // It counts nothing, and would go if one entry named it.
  Task<void> a_block_that_two_entries_name() {
    co_await create();
    std::byte place[8];
    store_be64(place, 20 * kCluster);
    file_.bytes.resize(21 * kCluster);
    for (const uint64_t index : {5, 6}) file_.bytes.write(kCluster + index * 8, place);
    auto image = co_await open();
    EXPECT_TRUE(co_await image->truncate(2 * kCluster, TruncateOptions()));
    EXPECT_TRUE(co_await image->close());
    for (const uint64_t index : {5, 6}) {
      std::byte now[8];
      file_.bytes.read(kCluster + index * 8, now);
      EXPECT_TRUE(std::ranges::equal(now, place)) << index;
    }
  }
  void put(uint64_t at, uint64_t value) {
    std::byte bytes[8];
    store_be64(bytes, value);
    file_.bytes.write(at, bytes);
  }
  Task<uint64_t> l1_table() {
    auto header = co_await read_header(file_, HeaderUse::kChecking);
    EXPECT_TRUE(header);
    co_return header->l1_offset;
  }
  // It holds nothing there, and is not written to say so: the file would reach to it.
  Task<void> a_table_where_the_file_never_was(uint64_t flags) {
    co_await create();
    const uint64_t length = file_.bytes.size();
    put(co_await l1_table(), kFarAway | flags);
    auto image = co_await open();
    EXPECT_TRUE(co_await image->discard(0, 16 * kCluster));
    EXPECT_EQ(file_.bytes.size(), length);
    EXPECT_TRUE(co_await image->truncate(0, TruncateOptions()));
    EXPECT_LE(file_.bytes.size(), align_up(length, kCluster));
    co_await close(*image);
  }
  // Nor is a block that counts nothing, to take away what it does not count.
  Task<void> a_block_where_the_file_never_was() {
    co_await create();
    auto image = co_await open();
    EXPECT_TRUE(co_await image->write(0, IoVector(bytes_.data(), bytes_.size())));
    EXPECT_TRUE(co_await image->close());
    const uint64_t table = load_at(co_await l1_table()) & kOffsetMask;
    const uint64_t length = file_.bytes.size();
    const uint64_t counted_by_second = (kCluster / 2) * kCluster;
    put(table + 3 * 8, counted_by_second | kEntryCopied);
    put(kCluster + 8, kFarAway);
    image = co_await open();
    EXPECT_TRUE(co_await image->truncate(2 * kCluster, TruncateOptions()));
    EXPECT_TRUE(co_await image->close());
    EXPECT_LE(file_.bytes.size(), length);
  }
  // The file is far longer than what its table counts: the rest is not walked through.
  Task<void> a_long_file() {
    co_await create();
    const uint64_t length = file_.bytes.size();
    file_.bytes.resize(kFarAway);
    auto image = co_await open();
    EXPECT_TRUE(co_await image->truncate(2 * kCluster, TruncateOptions()));
    EXPECT_EQ(file_.bytes.size(), align_up(length, kCluster));
    co_await close(*image);
  }
  // As far as all entries of the largest table can count, and all of them name one block.
  Task<void> a_long_file_that_one_block_counts() {
    constexpr uint64_t kEntries = (uint64_t{8} << 20) / 8;
    co_await create();
    const uint64_t table = align_up(file_.bytes.size(), kCluster);
    const uint64_t block = table + kEntries * 8;
    const uint64_t first_block = load_at(kCluster);
    file_.bytes.resize((kEntries * kCluster / 2) * kCluster);
    for (uint64_t i = 0; i < kEntries; ++i) put(table + i * 8, i == 0 ? first_block : block);
    put(field::kRefcountTable, table);
    std::byte clusters[4];
    store_be<uint32_t>(clusters, static_cast<uint32_t>(kEntries * 8 / kCluster));
    file_.bytes.write(field::kRefcountTable + 8, clusters);
    auto image = co_await open();
    file_.may_read = uint64_t{16} << 20;
    EXPECT_TRUE(co_await image->truncate(2 * kCluster, TruncateOptions()));
    file_.may_read = UINT64_MAX;
    EXPECT_TRUE(co_await image->close());
    EXPECT_EQ(file_.bytes.size(), table);
  }
  uint64_t load_at(uint64_t at) {
    std::byte bytes[8];
    file_.bytes.read(at, bytes);
    return load_be64(bytes);
  }
};

TEST_F(Shrink, DropsTheVmState) { env_.run(vm_state()); }
TEST_F(Shrink, LeavesATableWhereTheFileNeverWas) {
  env_.run(a_table_where_the_file_never_was(kEntryCopied));
}
TEST_F(Shrink, LeavesASharedTableWhereTheFileNeverWas) {
  env_.run(a_table_where_the_file_never_was(0));
}
TEST_F(Shrink, LeavesABlockWhereTheFileNeverWas) { env_.run(a_block_where_the_file_never_was()); }
TEST_F(Shrink, CutsAFileThatIsFarTooLong) { env_.run(a_long_file()); }
TEST_F(Shrink, CutsAFileThatOneBlockCounts) { env_.run(a_long_file_that_one_block_counts()); }
TEST_F(Shrink, LeavesABlockThatTwoEntriesName) { env_.run(a_block_that_two_entries_name()); }
TEST_F(Shrink, DropsWhatTheLastTableHoldsBehindTheEnd) { env_.run(entries_behind_the_end()); }
TEST_F(Shrink, GrowsOverNothingThatTheLastTableHolds) {
  env_.run(growing_over_entries_behind_the_end());
}

}  // namespace
}  // namespace blockbed::qcow2::test
