// External data files: each cluster has one place only, and with data-file-raw others read it.
#include <gtest/gtest.h>

#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/memory_storage.h"

#include "block/sim/sim_env.h"

namespace blockbed::qcow2::test {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kDisk = 16 * kCluster;

class DataFile : public ::testing::Test {
 public:
  void run(Task<void> (DataFile::*body)(Image&), bool raw, bool discards = true) {
    env_.run(with_image(body, raw, discards));
  }

  Task<void> with_image(Task<void> (DataFile::*body)(Image&), bool raw, bool discards) {
    CreateOptions create;
    create.size = kDisk;
    create.cluster_size = kCluster;
    create.data_file = true;
    create.data_file_name = "data";
    create.data_file_raw = raw;
    EXPECT_TRUE(co_await qcow2::create(env_, file_, &data_, create));
    auto header = co_await read_header(file_, true);
    EXPECT_TRUE(header);
    if (!header) co_return;
    MetadataOptions options = writable_options();
    options.discard_request = discards;
    Image image(env_, file_, &data_, backing_, std::move(*header), options);
    EXPECT_TRUE(co_await image.open());
    co_await (this->*body)(image);
    EXPECT_TRUE(co_await image.close());
  }

  static Task<void> write(Image& image, uint64_t offset, uint64_t length, unsigned char byte) {
    std::vector<std::byte> bytes(length, std::byte{byte});
    EXPECT_TRUE(co_await image.write(offset, IoVector(bytes.data(), bytes.size())));
  }
  static Task<int> byte_at(Image& image, uint64_t offset) {
    std::byte byte{};
    EXPECT_TRUE(co_await image.read(offset, IoVector(&byte, 1)));
    co_return static_cast<int>(byte);
  }
  int in_data_file(uint64_t offset) const {
    std::byte byte{};
    data_.bytes.read(offset, std::span(&byte, 1));
    return static_cast<int>(byte);
  }

  // A discard is carried out when the map is on the disk; what was written since must stay.
  Task<void> write_over_a_discard(Image& image) {
    co_await write(image, 0, 4 * kCluster, 1);
    EXPECT_TRUE(co_await image.discard(0, 4 * kCluster));
    co_await write(image, kCluster, kCluster, 2);
    EXPECT_TRUE(co_await image.flush());
    EXPECT_EQ(co_await byte_at(image, 0), 0);
    EXPECT_EQ(co_await byte_at(image, kCluster), 2);
    EXPECT_EQ(co_await byte_at(image, 2 * kCluster - 1), 2);
    EXPECT_EQ(co_await byte_at(image, 2 * kCluster), 0);
    // The others were discarded all the same.
    EXPECT_EQ(in_data_file(0), 0);
    EXPECT_EQ(in_data_file(3 * kCluster), 0);
  }
  Task<void> write_over_an_unmapping_zero(Image& image) {
    co_await write(image, 0, 2 * kCluster, 1);
    EXPECT_TRUE(co_await image.zero(0, 2 * kCluster, RequestFlags().with_may_unmap()));
    co_await write(image, 0, kCluster, 2);
    EXPECT_TRUE(co_await image.flush());
    EXPECT_EQ(co_await byte_at(image, 0), 2);
    EXPECT_EQ(co_await byte_at(image, kCluster), 0);
  }
  Task<void> preallocate_over_a_shrink(Image& image) {
    co_await write(image, 0, kDisk, 1);
    EXPECT_TRUE(co_await image.truncate(kCluster, TruncateOptions()));
    TruncateOptions options;
    options.preallocation = Preallocation::kMetadata;
    EXPECT_TRUE(co_await image.truncate(kDisk, options));
    EXPECT_EQ(co_await byte_at(image, kCluster), 0);
    co_await write(image, 4 * kCluster, kCluster, 2);
    EXPECT_TRUE(co_await image.flush());
    EXPECT_EQ(co_await byte_at(image, 4 * kCluster), 2);
  }
  Task<void> discard_raw(Image& image) {
    co_await write(image, 0, 2 * kCluster, 1);
    EXPECT_TRUE(co_await image.discard(0, kCluster));
    EXPECT_EQ(co_await byte_at(image, 0), 0);
    EXPECT_EQ(in_data_file(0), 0);
    EXPECT_EQ(in_data_file(kCluster), 1);
  }
  Task<void> shrink_and_grow(Image& image) {
    co_await write(image, 0, kDisk, 1);
    EXPECT_TRUE(co_await image.truncate(kCluster + 512, TruncateOptions()));
    EXPECT_EQ(data_.bytes.size(), kCluster + 512);
    EXPECT_TRUE(co_await image.truncate(kDisk, TruncateOptions()));
    EXPECT_EQ(data_.bytes.size(), kDisk);
    EXPECT_EQ(in_data_file(kCluster + 511), 1);
    EXPECT_EQ(in_data_file(kCluster + 512), 0);
    EXPECT_EQ(co_await byte_at(image, kCluster + 512), 0);
  }

 protected:
  sim::SimEnv env_{1};
  MemoryStorage file_{env_.executor(), 1, 0};
  MemoryStorage data_{env_.executor(), 2, 0};
  MemoryBacking backing_;
};

TEST_F(DataFile, KeepsWhatIsWrittenOverADiscard) { run(&DataFile::write_over_a_discard, false); }
TEST_F(DataFile, KeepsWhatIsWrittenOverADiscardRaw) { run(&DataFile::write_over_a_discard, true); }
TEST_F(DataFile, KeepsWhatIsWrittenOverZeroes) {
  run(&DataFile::write_over_an_unmapping_zero, false);
}
TEST_F(DataFile, KeepsWhatIsWrittenToPreallocatedClusters) {
  run(&DataFile::preallocate_over_a_shrink, false);
}
TEST_F(DataFile, RawDiscardReadsAsZeroesThereToo) { run(&DataFile::discard_raw, true, false); }
TEST_F(DataFile, IsCutWithTheDisk) {
  run(&DataFile::shrink_and_grow, false);
  run(&DataFile::shrink_and_grow, true);
}

}  // namespace
}  // namespace blockbed::qcow2::test
