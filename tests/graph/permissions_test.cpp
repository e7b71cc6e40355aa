// Names, permissions and changes of the graph.
#include <gtest/gtest.h>

#include "block/graph/backend.h"
#include "block/graph/graph_change.h"
#include "block/protocols/register.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

class GraphTest : public testing::Test {
 protected:
  GraphTest() { register_protocols(registry); }
  ~GraphTest() override { env.run_until_complete(graph.shutdown()); }

  Expected<NodeRef> open(json::Object options) {
    Graph::OpenRequest request;
    request.options = std::move(options);
    return env.run_until_complete(graph.open(std::move(request)));
  }
  Expected<NodeRef> open_null(std::string name) {
    json::Object options;
    options.set("driver", "null-co");
    if (!name.empty()) options.set("node-name", name);
    return open(std::move(options));
  }
  std::string error_of(const Expected<NodeRef>& opened) {
    return opened ? "" : opened.error().description;
  }

  ProductionEnv env;
  test::RecordedEvents events;
  DriverRegistry registry;
  Graph graph{env, events, registry};
};

TEST_F(GraphTest, NamesAreCheckedAndGenerated) {
  auto first = open_null("disk");
  ASSERT_TRUE(first);
  EXPECT_EQ(graph.find_node("disk"), first->get());
  EXPECT_EQ(error_of(open_null("disk")), "Duplicate nodes with node-name='disk'");
  EXPECT_EQ(error_of(open_null("1disk")), "Invalid node-name: '1disk'");
  EXPECT_EQ(error_of(open_null("disk!")), "Invalid node-name: 'disk!'");
  EXPECT_EQ(error_of(open_null(std::string(32, 'a'))), "Node name too long");
  EXPECT_TRUE(open_null(std::string(31, 'a')));
  Backend device(graph, "virtio0", {});
  EXPECT_EQ(error_of(open_null("virtio0")), "node-name=virtio0 is conflicting with a device id");
  auto anonymous = open_null("");
  ASSERT_TRUE(anonymous);
  EXPECT_EQ((*anonymous)->name(), "#block000");
}

TEST_F(GraphTest, ConflictsNameBothSides) {
  auto node = open_null("disk");
  ASSERT_TRUE(node);
  Backend writer(graph, "virtio0",
                 {Permission::kConsistentRead | Permission::kWrite, Permission::kConsistentRead});
  ASSERT_TRUE(writer.insert(**node));
  Backend second(graph, "", {Permission::kWrite, Permissions::all()});
  auto refused = second.insert(**node);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().description,
            "Permission conflict on node 'disk': permissions 'write' are both required by an "
            "unnamed block device (uses "
            "node 'disk' as 'root' child) and unshared by block device 'virtio0' (uses node 'disk' "
            "as 'root' child).");
  EXPECT_EQ(second.node(), nullptr);
  EXPECT_EQ((*node)->parents().size(), 1u);
  // What the second one does not need it may have.
  Backend reader(graph, "", {Permission::kConsistentRead, Permissions::all()});
  EXPECT_TRUE(reader.insert(**node));
  EXPECT_FALSE(reader.set_permissions({Permission::kResize, Permissions::all()}));
  EXPECT_EQ(reader.edge().permissions().needs, Permissions(Permission::kConsistentRead));
  env.run_until_complete(reader.remove());
  env.run_until_complete(writer.remove());
}

TEST_F(GraphTest, AChangeThatIsNotCommittedLeavesNoTrace) {
  auto a = open_null("a");
  auto b = open_null("b");
  Backend root(graph, "", {Permission::kConsistentRead, Permissions::all()});
  ASSERT_TRUE(root.insert(**a));
  {
    GraphChange change(graph);
    ASSERT_TRUE(change.replace_in_parents(**a, **b));
    EXPECT_EQ(root.node(), b->get());
    change.set_read_only(**b, true);
    ASSERT_TRUE(change.check());
  }
  EXPECT_EQ(root.node(), a->get());
  EXPECT_FALSE((*b)->flags().read_only);
  EXPECT_TRUE((*b)->parents().empty());
  {
    GraphChange change(graph);
    ASSERT_TRUE(change.replace_in_parents(**a, **b));
    ASSERT_TRUE(change.check());
    change.commit();
  }
  EXPECT_EQ(root.node(), b->get());
  env.run_until_complete(root.remove());
}

TEST_F(GraphTest, NodesLiveAsLongAsSomebodyUsesThem) {
  auto opened = open_null("disk");
  graph.give_to_monitor(**opened);
  Node* node = opened->get();
  *opened = NodeRef();
  env.run_until_complete(graph.close_unreferenced());
  EXPECT_EQ(graph.find_node("disk"), node);
  Backend root(graph, "", {});
  ASSERT_TRUE(root.insert(*node));
  graph.take_from_monitor(*node);
  env.run_until_complete(graph.close_unreferenced());
  EXPECT_EQ(graph.find_node("disk"), node);
  env.run_until_complete(root.remove());
  env.run_until_complete(graph.close_unreferenced());
  EXPECT_EQ(graph.find_node("disk"), nullptr);
}

}  // namespace
}  // namespace blockbed
