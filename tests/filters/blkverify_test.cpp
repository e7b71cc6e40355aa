// blkverify over two files, and compress over a format.
#include "block/filters/blkverify.h"

#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;

class BlkverifyTest : public testing::Test {
 public:
  BlkverifyTest() : world(1) {
    world.file("raw", test::FilterWorld::filled(64 * kKiB, 5));
    world.file("test", test::FilterWorld::filled(64 * kKiB, 5));
    json::Object options = world.options("blkverify", "v");
    options.set("raw", "raw");
    options.set("test", "test");
    node = &world.open(std::move(options));
    guest = &world.guest(*node);
  }
  void fail_once(const char* path, unsigned requests) {
    sim::FaultRule rule;
    rule.path = path;
    rule.requests = requests;
    world.env.storage().add_fault(rule);
  }

  test::FilterWorld world;
  Node* node = nullptr;
  Backend* guest = nullptr;
};

TEST_F(BlkverifyTest, BothAreWritten) {
  ASSERT_TRUE(world.write(*guest, 1000, 5000, 7));
  ASSERT_TRUE(world.env.run(guest->zero(4096, 4096)));
  EXPECT_EQ(world.content("raw"), world.content("test"));
  EXPECT_EQ(world.content("raw")[1000], std::byte{7});
  EXPECT_EQ(world.content("raw")[4096], std::byte{0});
  EXPECT_TRUE(world.read(*guest, 0, 64 * kKiB));
}

TEST_F(BlkverifyTest, AnErrorOfBothIsAnError) {
  fail_once("raw", sim::kSimRead);
  fail_once("test", sim::kSimRead);
  EXPECT_EQ(world.read(*guest, 0, 512).error().number(), EIO);
}

TEST_F(BlkverifyTest, AnErrorOfOneEndsTheProgram) {
  fail_once("test", sim::kSimRead);
  EXPECT_EXIT((void)world.read(*guest, 0, 512), testing::ExitedWithCode(1), "");
}

TEST_F(BlkverifyTest, OtherBytesEndTheProgram) {
  Backend& behind = world.guest(*world.graph->find_node("raw"));
  ASSERT_TRUE(world.write(behind, 700, 1, 6));
  EXPECT_TRUE(world.read(*guest, 0, 512));
  EXPECT_EXIT((void)world.read(*guest, 512, 512), testing::ExitedWithCode(1), "");
}

TEST_F(BlkverifyTest, Names) {
  EXPECT_EQ(node->filename(), "blkverify:raw:test");
  EXPECT_EQ(Blkverify::parse_filename("blkverify:x").error().description,
            "blkverify requires raw copy and original image path");
}

}  // namespace
}  // namespace blockbed
