// compress over qcow2.
#include "block/filters/compress.h"

#include "block/formats/image_create.h"
#include "block/graph/chain.h"
#include "schema/block_core.h"
#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;
using test::kMiB;

TEST(Compress, WholeClustersAreWrittenCompressed) {
  test::FilterWorld world(1);
  world.file("f", sim::SparseBytes(0));
  schema::BlockdevCreateOptionsQcow2 create;
  create.file.u = std::string("f");
  create.size = kMiB;
  ASSERT_TRUE(world.env.run(create_qcow2_image(*world.graph, create)));
  json::Object format = world.options("qcow2", "d");
  format.set("file", "f");
  world.open(std::move(format));
  json::Object options = world.options("compress", "c");
  options.set("file", "d");
  Node& node = world.open(std::move(options));
  EXPECT_EQ(node.limits().request_alignment, 64 * kKiB);

  Backend& guest = world.guest(node);
  ASSERT_TRUE(world.write(guest, 0, 128 * kKiB, 1));
  // In part, over what is compressed already.
  ASSERT_TRUE(world.write(guest, 65 * kKiB, kKiB, 2));
  ASSERT_TRUE(world.env.run(guest.zero(256 * kKiB, 64 * kKiB)));
  for (const uint64_t offset : {uint64_t{0}, 64 * kKiB}) {
    auto status = world.env.run(chain_status(node, nullptr, false, offset, 64 * kKiB));
    ASSERT_TRUE(status);
    EXPECT_TRUE(status->status.compressed) << offset;
  }
  auto bytes = world.read(guest, 64 * kKiB, 3 * kKiB);
  ASSERT_TRUE(bytes);
  EXPECT_EQ((*bytes)[kKiB - 1], std::byte{1});
  EXPECT_EQ((*bytes)[kKiB], std::byte{2});
  EXPECT_EQ((*bytes)[2 * kKiB], std::byte{1});
}

TEST(Compress, NeedsAFormatThatCan) {
  test::FilterWorld world(1);
  world.file("f", sim::SparseBytes(kKiB));
  json::Object options = world.options("compress", "c");
  options.set("file", "f");
  EXPECT_EQ(world.refusal(std::move(options)),
            "Compression is not supported for underlying format: file");
}

}  // namespace
}  // namespace blockbed
