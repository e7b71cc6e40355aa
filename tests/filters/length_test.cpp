// Whoever is as long as what it stands on stays so, however high the tower and wherever it is
// resized.
#include <gtest/gtest.h>

#include "tests/filters/filters_fixture.h"

namespace blockbed {
namespace {

using test::FilterWorld;
using test::kMiB;

json::Object filter(std::string_view driver, std::string_view name, std::string_view below,
                    std::string_view child = "file") {
  json::Object options;
  options.set("driver", driver);
  options.set("node-name", name);
  options.set(child, below);
  return options;
}

void resize(FilterWorld& world, Node& node, uint64_t length) {
  Backend resizer(*world.graph, "", {Permission::kResize, Permissions::all()});
  ASSERT_TRUE(resizer.insert(node).has_value());
  auto done = world.env.run(resizer.truncate(length, {}));
  EXPECT_TRUE(done.has_value()) << done.error().description;
  world.env.run(resizer.remove());
}

TEST(Length, FollowsWhatIsBelow) {
  FilterWorld world(1);
  auto group = world.graph->throttle_groups().find_or_make("g");
  std::vector<Node*> tower = {&world.file("disk", sim::SparseBytes(kMiB))};
  const auto put = [&](json::Object options) { tower.push_back(&world.open(std::move(options))); };
  put(filter("copy-on-read", "cor", "disk"));
  put(filter("raw", "raw1", "cor"));
  json::Object throttle = filter("throttle", "throttle", "raw1");
  throttle.set("throttle-group", "g");
  put(std::move(throttle));
  put(filter("raw", "raw2", "throttle"));
  put(filter("blkdebug", "blkdebug", "raw2", "image"));
  put(filter("raw", "top", "blkdebug"));

  uint64_t length = kMiB;
  for (std::size_t resized = 0; resized < tower.size(); ++resized) {
    for (const uint64_t wanted : {length + 3 * kMiB, length + 1000, length - 512}) {
      resize(world, *tower[resized], wanted);
      for (Node* node : tower) EXPECT_EQ(node->length(), wanted) << node->name();
    }
    length -= 512;
  }
  world.drop_guests();
}

TEST(Length, AWindowKeepsWhatItWasGiven) {
  FilterWorld world(1);
  Node& disk = world.file("disk", sim::SparseBytes(2 * kMiB));
  json::Object options = filter("raw", "window", "disk");
  options.set("offset", int64_t{65536});
  options.set("size", int64_t{65536});
  Node& window = world.open(std::move(options));
  options = filter("raw", "rest", "disk");
  options.set("offset", int64_t{65536});
  Node& rest = world.open(std::move(options));
  // As if by another program: a window shares its file with nobody who resizes it.
  disk.set_length(kMiB);
  EXPECT_EQ(window.length(), 65536U);
  EXPECT_EQ(rest.length(), kMiB - 65536);
  disk.set_length(512);
  EXPECT_EQ(window.length(), 65536U);
  EXPECT_EQ(rest.length(), 0U);
}

}  // namespace
}  // namespace blockbed
