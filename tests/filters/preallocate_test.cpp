// preallocate: growing ahead, and giving back.
#include "block/filters/preallocate.h"

#include "block/graph/drain.h"
#include "block/graph/reopen.h"
#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;
using test::kMiB;

class PreallocateTest : public testing::Test {
 public:
  PreallocateTest() : world(1) {
    world.file("f", test::FilterWorld::filled(100 * kKiB, 5));
    json::Object options = world.options("preallocate", "p");
    options.set("file", "f");
    options.set("prealloc-size", int64_t{1} << 20);
    options.set("prealloc-align", int64_t{64} << 10);
    node = &world.open(std::move(options));
  }
  ~PreallocateTest() override {
    if (user) world.env.run(user->remove());
  }

  // Who may write and resize, as a format above may.
  void use() {
    user =
        std::make_unique<Backend>(*world.graph, "",
                                  PermissionPair{Permission::kConsistentRead | Permission::kWrite |
                                                     Permissions(Permission::kResize),
                                                 Permissions::all()});
    ASSERT_TRUE(user->insert(*node));
    user->set_allow_write_beyond_end(true);
  }
  void leave() {
    world.env.run(user->remove());
    user.reset();
  }
  uint64_t file_size() { return world.env.storage().content("f").size(); }

  test::FilterWorld world;
  Node* node = nullptr;
  std::unique_ptr<Backend> user;
};

TEST_F(PreallocateTest, GrowsAheadOfAWriteBeyondTheEnd) {
  use();
  ASSERT_TRUE(world.write(*user, 50 * kKiB, 50 * kKiB, 1));
  EXPECT_EQ(file_size(), 100 * kKiB) << "inside the file";
  ASSERT_TRUE(world.write(*user, 90 * kKiB, 20 * kKiB, 2));
  // 110 KiB and 1 MiB, aligned to 64 KiB.
  EXPECT_EQ(file_size(), 1152 * kKiB);
  EXPECT_EQ(node->length(), 110 * kKiB) << "what was preallocated is not shown";
  ASSERT_TRUE(world.write(*user, 1000 * kKiB, kKiB, 3));
  EXPECT_EQ(file_size(), 1152 * kKiB);
  EXPECT_EQ(node->length(), 1001 * kKiB);
  auto bytes = world.read(*user, 109 * kKiB, 2 * kKiB);
  ASSERT_TRUE(bytes);
  EXPECT_EQ((*bytes)[kKiB - 1], std::byte{2});
  EXPECT_EQ((*bytes)[kKiB], std::byte{0});
}

TEST_F(PreallocateTest, GivesBackWhenNobodyWritesAnyMore) {
  use();
  ASSERT_TRUE(world.write(*user, 100 * kKiB, kKiB, 1));
  EXPECT_GT(file_size(), 101 * kKiB);
  leave();
  {
    DrainedSection settled = world.env.run(drain(*node));
  }
  EXPECT_EQ(file_size(), 101 * kKiB);
  EXPECT_EQ(node->filtered_edge()->permissions().needs, Permissions::none());
  use();
  ASSERT_TRUE(world.write(*user, 101 * kKiB, kKiB, 1));
  EXPECT_GT(file_size(), 102 * kKiB);
}

TEST_F(PreallocateTest, GivesBackWhenItIsClosed) {
  use();
  ASSERT_TRUE(world.write(*user, 100 * kKiB, kKiB, 1));
  leave();
  world.drop(*node);
  EXPECT_EQ(file_size(), 101 * kKiB);
}

TEST_F(PreallocateTest, TruncatesToWhatIsAskedFor) {
  use();
  ASSERT_TRUE(world.write(*user, 100 * kKiB, kKiB, 1));
  ASSERT_TRUE(world.env.run(user->truncate(200 * kKiB, {})));
  EXPECT_EQ(file_size(), 200 * kKiB);
  ASSERT_TRUE(world.write(*user, 200 * kKiB, kKiB, 1));
  ASSERT_TRUE(world.env.run(user->truncate(50 * kKiB, {})));
  EXPECT_EQ(file_size(), 50 * kKiB);
  EXPECT_EQ(node->length(), 50 * kKiB);
}

TEST_F(PreallocateTest, WithoutPermissionToResizeNothingIsPreallocated) {
  Backend& guest = world.guest(*node);
  guest.set_allow_write_beyond_end(true);
  (void)world.write(guest, 100 * kKiB, kKiB, 1);
  EXPECT_LE(file_size(), 101 * kKiB);
}

TEST_F(PreallocateTest, AChildThatCannotIsWrittenAllTheSame) {
  use();
  sim::FaultRule rule;
  rule.path = "f";
  rule.requests = sim::kSimZero | sim::kSimTruncate;
  rule.error = ENOSPC;
  rule.times = 100;
  world.env.storage().add_fault(rule);
  ASSERT_TRUE(world.write(*user, 100 * kKiB, kKiB, 1));
  EXPECT_EQ(file_size(), 101 * kKiB);
  EXPECT_EQ(node->length(), 101 * kKiB);
}

TEST_F(PreallocateTest, OptionsChangeAndWhatIsLeftForReadingIsCut) {
  use();
  ASSERT_TRUE(world.write(*user, 100 * kKiB, kKiB, 1));
  const auto reopen_with = [&](json::Object more) {
    json::Object options = world.options("preallocate", "p");
    options.set("file", "f");
    for (const auto& [key, value] : more) options.set(key, value);
    std::vector<ReopenRequest> requests;
    requests.emplace_back(NodeRef(*node), std::move(options), false);
    return world.env.run(reopen(*world.graph, std::move(requests)));
  };
  EXPECT_EQ(reopen_with({}).error().description,
            "Option 'prealloc-align' cannot be reset to its default value");
  json::Object sizes;
  sizes.set("prealloc-size", int64_t{2} << 20);
  sizes.set("prealloc-align", int64_t{1} << 20);
  ASSERT_TRUE(reopen_with(sizes));
  ASSERT_TRUE(world.write(*user, 1500 * kKiB, kKiB, 1));
  EXPECT_EQ(file_size(), 4 * kMiB);
  leave();
  sizes.set("read-only", true);
  ASSERT_TRUE(reopen_with(sizes));
  EXPECT_EQ(file_size(), 1501 * kKiB);
}

TEST_F(PreallocateTest, Refusals) {
  const auto refused = [&](const char* option, int64_t value) {
    json::Object options = world.options("preallocate", "x");
    options.set("file", "f");
    options.set(option, value);
    return world.refusal(std::move(options));
  };
  EXPECT_EQ(refused("prealloc-align", 1000),
            "prealloc-align parameter of preallocate filter is not aligned to 512");
  EXPECT_EQ(refused("prealloc-align", -512),
            "Parameter 'prealloc-align' expects a non-negative number below 2^64");
  EXPECT_EQ(refused("prealloc-size", -1),
            "Parameter 'prealloc-size' expects a non-negative number below 2^64");
}

}  // namespace
}  // namespace blockbed
