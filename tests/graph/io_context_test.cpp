// What runs where, and what moves along.
#include "block/graph/io_context.h"

#include <gtest/gtest.h>

#include "block/graph/backend.h"
#include "block/graph/graph_change.h"
#include "block/graph/kept_places.h"
#include "block/protocols/register.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

constexpr std::string_view kRefused = "Cannot change iothread of active block backend";

class IoContextTest : public testing::Test {
 protected:
  IoContextTest() {
    register_protocols(registry);
    top = open("top");
    bottom = open("bottom");
    other = open("other");
  }
  ~IoContextTest() override {
    for (const auto& root : roots) env.run_until_complete(root->remove());
    for (NodeRef* node : {&top, &bottom, &other}) *node = NodeRef();
    env.run_until_complete(graph.close_unreferenced());
    env.run_until_complete(graph.shutdown());
  }

  NodeRef open(std::string name) {
    Graph::OpenRequest request;
    request.options.set("driver", "null-co");
    request.options.set("node-name", std::move(name));
    return *env.run_until_complete(graph.open(std::move(request)));
  }
  Backend& root(Node& node) {
    roots.push_back(std::make_unique<Backend>(
        graph, "", PermissionPair(Permissions::none(), Permissions::all())));
    EXPECT_TRUE(roots.back()->insert(node));
    return *roots.back();
  }
  // "" when it worked.
  std::string attach(Node& parent, Node& child) {
    GraphChange change(graph);
    change.attach_child(parent, "backing", ChildRole::kCow, child);
    if (Expected<void> checked = change.check(); !checked) return checked.error().description;
    change.commit();
    return "";
  }
  static std::string error_of(const Expected<void>& done) {
    return done ? "" : done.error().description;
  }

  ProductionEnv env;
  test::RecordedEvents events;
  DriverRegistry registry;
  Graph graph{env, events, registry};
  const IoContext main;
  const IoContext a = std::make_shared<Iothread>("a");
  const IoContext b = std::make_shared<Iothread>("b");
  NodeRef top, bottom, other;
  std::vector<std::unique_ptr<Backend>> roots;
};

TEST_F(IoContextTest, WhatHangsTogetherMovesTogether) {
  ASSERT_EQ(attach(*top, *bottom), "");
  root(*bottom);
  ASSERT_TRUE(move_to_context(*bottom, a));
  EXPECT_EQ(top->context(), a);
  EXPECT_EQ(bottom->context(), a);
  EXPECT_EQ(other->context(), main);
  ASSERT_TRUE(move_to_context(*top, b));
  EXPECT_EQ(bottom->context(), b);
}

TEST_F(IoContextTest, ABoundRootKeepsAllWhereItIs) {
  ASSERT_EQ(attach(*top, *bottom), "");
  Backend& device = root(*top);
  ASSERT_TRUE(device.bind(a));
  EXPECT_EQ(bottom->context(), a);
  EXPECT_EQ(error_of(move_to_context(*bottom, b)), kRefused);
  EXPECT_EQ(error_of(move_to_context(*bottom, main)), kRefused);
  EXPECT_EQ(top->context(), a);
  EXPECT_EQ(bottom->context(), a);
  EXPECT_TRUE(move_to_context(*bottom, a));

  Backend& second = root(*bottom);
  EXPECT_EQ(error_of(second.bind(b)), kRefused);
  EXPECT_TRUE(second.bind(a));
  // Refused, it is where it was.
  EXPECT_EQ(error_of(second.bind(main)), kRefused);
  EXPECT_EQ(second.child_context(), a);
}

TEST_F(IoContextTest, ANewChildFollowsItsParent) {
  ASSERT_TRUE(move_to_context(*top, a));
  ASSERT_TRUE(move_to_context(*bottom, b));
  ASSERT_EQ(attach(*top, *bottom), "");
  EXPECT_EQ(bottom->context(), a);
}

TEST_F(IoContextTest, AParentFollowsAChildThatCannotMove) {
  ASSERT_EQ(attach(*other, *top), "");
  ASSERT_TRUE(root(*bottom).bind(b));
  ASSERT_EQ(attach(*top, *bottom), "");
  EXPECT_EQ(top->context(), b);
  EXPECT_EQ(other->context(), b);
}

TEST_F(IoContextTest, TwoThatCannotMoveDoNotComeTogether) {
  ASSERT_TRUE(root(*top).bind(a));
  ASSERT_TRUE(root(*bottom).bind(b));
  EXPECT_EQ(attach(*top, *bottom), kRefused);
  EXPECT_EQ(top->context(), a);
  EXPECT_EQ(bottom->context(), b);
  EXPECT_EQ(top->child("backing"), nullptr);
}

TEST_F(IoContextTest, AChangeThatIsUndoneMovesBack) {
  ASSERT_TRUE(move_to_context(*top, a));
  {
    GraphChange change(graph);
    change.attach_child(*top, "backing", ChildRole::kCow, *bottom);
    ASSERT_TRUE(change.check());
    EXPECT_EQ(bottom->context(), a);
  }
  EXPECT_EQ(bottom->context(), main);
}

TEST_F(IoContextTest, WhatWasMovedForNothingGoesBack) {
  ASSERT_EQ(attach(*top, *bottom), "");
  ASSERT_TRUE(move_to_context(*other, b));
  {
    KeptPlaces places;
    places.add(*bottom);
    places.add(*other);
    ASSERT_TRUE(move_to_context(*other, a));
    ASSERT_TRUE(move_to_context(*bottom, a));
  }
  EXPECT_EQ(other->context(), b);
  EXPECT_EQ(bottom->context(), main);
  EXPECT_EQ(top->context(), main) << "what hangs together moves back together";
  {
    KeptPlaces places;
    places.add(*bottom);
    places.add(*other);
    ASSERT_TRUE(move_to_context(*other, a));
    ASSERT_TRUE(root(*bottom).bind(a));
    places.put_back();
    EXPECT_EQ(bottom->context(), a) << "somebody has bound it since";
    EXPECT_EQ(other->context(), b);
    places.add(*other);
    ASSERT_TRUE(move_to_context(*other, a));
    places.keep();
  }
  EXPECT_EQ(other->context(), a);
}

TEST_F(IoContextTest, WhoLosesAUserGoesBackToTheMainLoop) {
  Backend& device = root(*bottom);
  Backend& second = root(*bottom);
  ASSERT_TRUE(device.bind(a));
  ASSERT_TRUE(second.bind(a));
  env.run_until_complete(device.remove());
  EXPECT_EQ(bottom->context(), a);
  env.run_until_complete(second.remove());
  EXPECT_EQ(bottom->context(), main);

  ASSERT_EQ(attach(*top, *bottom), "");
  ASSERT_TRUE(move_to_context(*top, a));
  top = NodeRef();
  env.run_until_complete(graph.close_unreferenced());
  EXPECT_EQ(bottom->context(), main);
}

TEST_F(IoContextTest, AChildThatIsTakenAwayStaysWhereItIs) {
  ASSERT_TRUE(root(*top).bind(a));
  ASSERT_EQ(attach(*top, *bottom), "");
  GraphChange change(graph);
  ASSERT_TRUE(change.detach_child(*top->child("backing")));
  ASSERT_TRUE(change.check());
  change.commit();
  EXPECT_EQ(bottom->context(), a);
}

TEST_F(IoContextTest, ABoundRootTakesItsNextNodeAlong) {
  Backend& drive = root(*bottom);
  ASSERT_TRUE(drive.bind(a));
  env.run_until_complete(drive.remove());
  ASSERT_TRUE(drive.insert(*other));
  EXPECT_EQ(other->context(), a);
  env.run_until_complete(drive.remove());

  ASSERT_TRUE(root(*top).bind(b));
  EXPECT_EQ(error_of(drive.insert(*top)), kRefused);
  EXPECT_EQ(drive.node(), nullptr);
  drive.unbind();
  EXPECT_TRUE(drive.insert(*top));
}

}  // namespace
}  // namespace blockbed
