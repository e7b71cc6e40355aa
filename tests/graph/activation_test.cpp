// Activation: what is opened for a guest that is awaited takes and does nothing before.
#include "block/graph/activation.h"

#include <gtest/gtest.h>

#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/graph/reopen.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

// A format over memory that says when it reads its image anew.
class WatchedFormat final : public Driver {
 public:
  struct Script {
    std::vector<std::string> calls;
    std::string refuse;
  };

  WatchedFormat(Node& node, Edge& file, Script& script)
      : Driver(node), file_(file), script_(script) {}

  std::string_view name() const override { return "qcow2"; }
  bool supports_backing() const override { return true; }
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override {
    return file_.read(offset, std::move(buffers), flags);
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override {
    return file_.write(offset, std::move(buffers), flags);
  }
  Task<Result<uint64_t>> length() override { co_return file_.node()->length(); }

  bool can_reopen() const override { return true; }
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override {
    EXPECT_TRUE(state.others_wrote);
    EXPECT_TRUE(node().quiesced());
    // It may have to repair what it finds.
    EXPECT_EQ(file_.permissions().needs.has(Permission::kWrite), state.writable());
    script_.calls.push_back("prepare " + node().name());
    if (script_.refuse == node().name()) co_return fail("refused");
    co_return Expected<void>();
  }
  void reopen_commit() override { script_.calls.push_back("commit " + node().name()); }
  Task<void> reopen_finish() override {
    script_.calls.push_back("finish " + node().name());
    co_return;
  }
  Task<void> close() override { co_return; }

 private:
  Edge& file_;
  Script& script_;
};

class ActivationTest : public testing::Test {
 protected:
  ActivationTest() {
    disk.bytes.resize(1 << 16);
    registry.add(test::memory_entry(disk));
    registry.add(test::scripted_entry<WatchedFormat>("qcow2", script));
    graph.emplace(env, events, registry);
  }
  ~ActivationTest() override {
    env.run_until_complete(graph->shutdown());
    graph.reset();
  }

  // `name` over NAME-file, as a user adds it.
  Node& add(const std::string& name, const std::string& backing = "") {
    json::Object storage{{"driver", "null-co"}, {"node-name", name + "-file"}};
    Graph::OpenRequest request;
    request.options = json::Object{{"driver", "qcow2"}, {"node-name", name}};
    request.options.set("file", std::move(storage));
    if (!backing.empty()) request.options.set("backing", backing);
    request.inherited = inherited_by_roots(*graph);
    auto opened = env.run_until_complete(graph->open(std::move(request)));
    EXPECT_TRUE(opened.has_value()) << opened.error().description;
    graph->give_to_monitor(**opened);
    return **opened;
  }
  std::string activate_now(Node& node) {
    auto done = env.run_until_complete(activate(node));
    return done ? "" : done.error().description;
  }
  void remove(Backend& backend) { env.run_until_complete(backend.remove()); }
  bool inactive(const char* name) { return graph->find_node(name)->flags().inactive; }

  static PermissionPair writing() {
    return {Permission::kConsistentRead | Permission::kWrite,
            Permissions(Permission::kConsistentRead)};
  }

  ProductionEnv env;
  test::RecordedEvents events;
  test::MemoryDisk disk;
  DriverRegistry registry;
  WatchedFormat::Script script;
  std::optional<Graph> graph;
};

TEST_F(ActivationTest, NobodyIsAwaited) {
  Node& node = add("a");
  EXPECT_FALSE(node.flags().inactive);
  EXPECT_EQ(activate_now(node), "");
  EXPECT_TRUE(script.calls.empty());
}

TEST_F(ActivationTest, InactiveNodesTakeNothing) {
  graph->await_guest();
  Node& node = add("a");
  EXPECT_TRUE(inactive("a") && inactive("a-file"));
  const PermissionPair below = cumulative_permissions(*graph->find_node("a-file"));
  EXPECT_EQ(below.needs, Permissions(Permission::kConsistentRead));
  EXPECT_EQ(below.shares, Permissions::all());

  Backend job(*graph, "", writing());
  auto inserted = job.insert(node);
  ASSERT_FALSE(inserted);
  EXPECT_EQ(inserted.error().description, "Block node is read-only");
}

TEST_F(ActivationTest, DevicesWait) {
  graph->await_guest();
  Node& node = add("a");
  Backend device(*graph, "", writing());
  device.set_for_guest(true);
  Backend other(*graph, "", writing());
  other.set_for_guest(true);
  ASSERT_TRUE(device.insert(node));
  ASSERT_TRUE(other.insert(node));
  EXPECT_EQ(cumulative_permissions(node), PermissionPair());
  Buffer data(512);
  EXPECT_EQ(env.run_until_complete(device.write(0, data.io())), io_error(EPERM));
  EXPECT_EQ(env.run_until_complete(device.zero(0, 512)), io_error(EPERM));
  EXPECT_EQ(env.run_until_complete(device.discard(0, 512)), io_error(EPERM));
  EXPECT_TRUE(env.run_until_complete(device.read(0, data.io())));

  // Who moves the guest may go on to write beside them.
  ASSERT_EQ(activate_now(node), "");
  EXPECT_EQ(device.edge().permissions(), (PermissionPair{writing().needs, Permissions::all()}));
  EXPECT_TRUE(env.run_until_complete(device.write(0, data.io())));
  remove(device);
  remove(other);
}

TEST_F(ActivationTest, DevicesFollowTheirNode) {
  graph->await_guest();
  Node& taken_over = add("a");
  Node& left = add("b");
  ASSERT_EQ(activate_now(taken_over), "");
  Backend device(*graph, "", writing());
  device.set_for_guest(true);
  ASSERT_TRUE(device.insert(left));
  for (Node* node : {&taken_over, &left, &taken_over}) {
    const DrainedSection drained = env.run_until_complete(drain({&taken_over, &left}));
    GraphChange change(*graph);
    ASSERT_TRUE(change.replace_node(device.edge(), *node));
    ASSERT_TRUE(change.check());
    change.commit();
    EXPECT_EQ(device.edge().permissions().needs.has(Permission::kWrite), node == &taken_over);
  }
  remove(device);
}

TEST_F(ActivationTest, FromTheBottomUp) {
  graph->await_guest();
  add("base");
  Node& top = add("top", "base");
  EXPECT_EQ(activate_now(top), "");
  EXPECT_EQ(script.calls, (std::vector<std::string>{"prepare base", "commit base", "finish base",
                                                    "prepare top", "commit top", "finish top"}));
  for (const Node* node : graph->nodes()) EXPECT_FALSE(node->flags().inactive || node->quiesced());
  // There is nothing left to do.
  EXPECT_EQ(activate_now(top), "");
  EXPECT_EQ(script.calls.size(), 6u);
}

TEST_F(ActivationTest, WhatFailsStaysInactive) {
  graph->await_guest();
  Node& node = add("a");
  Backend device(*graph, "", writing());
  device.set_for_guest(true);
  ASSERT_TRUE(device.insert(node));
  script.refuse = "a";
  EXPECT_EQ(activate_now(node), "Could not reopen qcow2 layer: refused");
  EXPECT_TRUE(inactive("a"));
  EXPECT_FALSE(inactive("a-file"));
  EXPECT_EQ(device.edge().permissions(), PermissionPair());
  EXPECT_FALSE(
      graph->find_node("a-file")->parents().front()->permissions().needs.has(Permission::kWrite));

  script.refuse.clear();
  EXPECT_EQ(activate_now(node), "");
  EXPECT_FALSE(inactive("a"));
  remove(device);
}

TEST_F(ActivationTest, All) {
  graph->await_guest();
  add("a");
  add("b");
  script.refuse = "a";
  // The newest first; those before the one that fails are in use.
  EXPECT_FALSE(env.run_until_complete(activate_all(*graph)));
  EXPECT_TRUE(inactive("a"));
  EXPECT_FALSE(inactive("b"));
  script.refuse.clear();
  EXPECT_TRUE(env.run_until_complete(activate_all(*graph)));
  EXPECT_FALSE(inactive("a"));
}

TEST_F(ActivationTest, OneThatIsOpenedLaterIsInactiveAgain) {
  graph->await_guest();
  EXPECT_EQ(activate_now(add("a")), "");
  add("b");
  EXPECT_TRUE(inactive("b"));
}

}  // namespace
}  // namespace blockbed
