// Reopening: all nodes or none, whatever fails, and what a driver is asked in which order.
#include "block/graph/reopen.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph_change.h"
#include "block/graph/writable.h"
#include "block/runtime/production_env.h"
#include "tests/support/graph_picture.h"
#include "tests/support/memory_driver.h"

namespace blockbed {
namespace {

// What the formats of a test are asked, and which of the questions fails.
struct Script {
  std::vector<std::string> calls;
  // Counts the questions that may fail; the one with this number does.
  int fail_at = -1;
  int asked = 0;

  bool fails(const Node& node, const char* question) {
    calls.push_back(node.name() + " " + question);
    return asked++ == fail_at;
  }
};

// A format over memory that can be reopened and may have a backing file.
class ScriptedFormat final : public Driver {
 public:
  ScriptedFormat(Node& node, Edge& file, Script& script)
      : Driver(node), file_(file), script_(script) {}

  std::string_view name() const override { return "qcow2"; }
  bool supports_backing() const override { return true; }
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override {
    return file_.read(offset, std::move(buffers), flags);
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override {
    return file_.write(offset, std::move(buffers), flags);
  }
  Task<Result<void>> flush_to_children() override {
    if (script_.fails(node(), "flush")) co_return io_error(EIO);
    co_return Result<void>();
  }
  Task<Result<uint64_t>> length() override { co_return file_.node()->length(); }

  Expected<void> prepare_permissions(Permissions, Permissions) override {
    if (!preparing_) return {};
    if (script_.fails(node(), "permissions")) return fail("permissions refused");
    return {};
  }
  void abort_permissions() override { ++aborted; }
  bool can_reopen() const override { return true; }
  Task<Expected<void>> reopen_prepare(const ReopenState& state) override {
    preparing_ = true;
    writable_ = state.writable();
    if (script_.fails(node(), "prepare")) co_return fail("prepare refused");
    co_return Expected<void>();
  }
  void reopen_commit() override {
    script_.calls.push_back(node().name() + " commit");
    EXPECT_TRUE(preparing_);
    EXPECT_EQ(node().writable(), writable_);
  }
  Task<void> reopen_finish() override {
    script_.calls.push_back(node().name() + " finish");
    preparing_ = false;
    co_return;
  }
  Task<void> close() override { co_return; }

  int aborted = 0;

 private:
  Edge& file_;
  Script& script_;
  bool preparing_ = false;
  bool writable_ = false;
};

class ReopenTest : public testing::Test {
 protected:
  ReopenTest() {
    disk.bytes.resize(1 << 16);
    registry.add(test::memory_entry(disk));
    registry.add(test::scripted_entry<ScriptedFormat>("qcow2", script));
    graph.emplace(env, events, registry);
  }
  ~ReopenTest() override {
    script.fail_at = -1;
    env.run_until_complete(graph->shutdown());
    graph.reset();
  }

  static json::Object storage(const std::string& name) {
    json::Object options;
    options.set("driver", "null-co");
    options.set("node-name", name);
    return options;
  }
  static json::Object format(const std::string& name, json::Value file) {
    json::Object options;
    options.set("driver", "qcow2");
    options.set("node-name", name);
    options.set("file", std::move(file));
    return options;
  }
  // `name` over NAME-file.
  json::Object add(const std::string& name, json::Object more = {}) {
    json::Object options = format(name, storage(name + "-file"));
    for (const auto& [key, value] : more) options.set(key, value);
    Graph::OpenRequest request;
    request.options = options;
    auto opened = env.run_until_complete(graph->open(std::move(request)));
    if (!opened) {
      ADD_FAILURE() << opened.error().description;
    } else {
      graph->give_to_monitor(**opened);
    }
    return options;
  }
  Node& node(const char* name) { return *graph->find_node(name); }

  std::string reopen_as(std::vector<json::Object> all) {
    std::vector<ReopenRequest> requests;
    for (json::Object& options : all) {
      Node& named = *graph->find_node(options.find("node-name")->as_string());
      requests.emplace_back(NodeRef(named), std::move(options), false);
    }
    auto done = env.run_until_complete(reopen(*graph, std::move(requests)));
    env.run_until_complete(graph->close_unreferenced());
    return done ? "" : done.error().description;
  }

  // Between two calls nothing stands still.
  std::string picture() {
    for (const Node* each : graph->nodes()) EXPECT_FALSE(each->quiesced()) << each->name();
    return test::picture_of(*graph);
  }

  ProductionEnv env;
  test::RecordedEvents events;
  DriverRegistry registry;
  test::MemoryDisk disk;
  Script script;
  std::optional<Graph> graph;
};

TEST_F(ReopenTest, AsksEveryDriverAndCommitsAllInOneChange) {
  const json::Object a = add("a"), b = add("b");
  script.calls.clear();
  EXPECT_EQ(reopen_as({a, b}), "");
  // Storage of memory has nothing to prepare; the default driver would refuse.
  EXPECT_EQ(script.calls, (std::vector<std::string>{"a flush", "b flush", "a prepare", "b prepare",
                                                    "b permissions", "a permissions", "a commit",
                                                    "b commit", "b finish", "a finish"}));
}

TEST_F(ReopenTest, WhateverFailsNothingHasChanged) {
  const json::Object a = add("a"), b = add("b");
  json::Object a_now = a, b_now = b;
  a_now.set("read-only", true);
  a_now.set("backing", "b");
  b_now.set("detect-zeroes", "on");
  b_now.set("cache", json::Object{{"no-flush", true}});
  const std::string before = picture();
  int failures = 0;
  for (int at = 0;; ++at) {
    script.fail_at = at;
    script.asked = 0;
    script.calls.clear();
    const std::string error = reopen_as({a_now, b_now});
    if (error.empty()) break;
    ++failures;
    ASSERT_EQ(picture(), before) << "question " << at << ": " << error;
    for (const char* name : {"a", "b"}) {
      const auto count = [&](const char* call) {
        return std::count(script.calls.begin(), script.calls.end(), std::string(name) + call);
      };
      EXPECT_EQ(count(" commit"), 0);
      EXPECT_EQ(count(" finish"), count(" prepare")) << "question " << at;
    }
  }
  // Both flush, prepare, and are asked for their permissions.
  EXPECT_EQ(failures, 6);
  EXPECT_NE(picture(), before);
  script.fail_at = -1;
  EXPECT_EQ(reopen_as({[&] {
                         json::Object back = a;
                         back.set("backing", json::Null());
                         return back;
                       }(),
                       b}),
            "");
}

TEST_F(ReopenTest, AUserWhoWritesKeepsTheNodeWritable) {
  const json::Object a = add("a");
  Backend writer(*graph, "", {Permission::kWrite, Permissions::all()});
  ASSERT_TRUE(writer.insert(node("a")));
  const std::string before = picture();
  json::Object read_only = a;
  read_only.set("read-only", true);
  EXPECT_EQ(reopen_as({read_only}), "Read-only block node 'a' cannot support read-write users");
  EXPECT_EQ(picture(), before);
  env.run_until_complete(writer.remove());
  EXPECT_EQ(reopen_as({read_only}), "");
}

TEST_F(ReopenTest, AFrozenLinkStays) {
  const json::Object a = add("a");
  add("b");
  json::Object over_b = a;
  over_b.set("backing", "b");
  ASSERT_EQ(reopen_as({over_b}), "");
  {
    auto frozen = FrozenChain::freeze(node("a"), node("b"));
    ASSERT_TRUE(frozen);
    const std::string before = picture();
    json::Object alone = a;
    alone.set("backing", json::Null());
    EXPECT_EQ(reopen_as({alone}), "Cannot change frozen 'backing' link from 'a' to 'b'");
    EXPECT_EQ(picture(), before);
    EXPECT_EQ(reopen_as({over_b}), "");
  }
  json::Object alone = a;
  alone.set("backing", json::Null());
  EXPECT_EQ(reopen_as({alone}), "");
}

TEST_F(ReopenTest, AChildOfItsOwnFollowsAndOneOfOthersDoesNot) {
  const json::Object a = add("a");
  json::Object read_only = a;
  read_only.set("read-only", true);
  ASSERT_EQ(reopen_as({read_only}), "");
  EXPECT_TRUE(node("a-file").flags().read_only);
  ASSERT_EQ(reopen_as({a}), "");
  EXPECT_FALSE(node("a-file").flags().read_only);
  EXPECT_EQ(node("a-file").inherits_from(), &node("a"));

  // Let go of, it is nobody's own.
  add("b");
  NodeRef keep(node("a-file"));
  ASSERT_EQ(reopen_as({format("a", "b-file")}),
            "Permission conflict on node 'b-file': permissions 'write, resize' are both required "
            "by node 'b' (uses node 'b-file' as 'file' child) and unshared by node 'a' (uses node "
            "'b-file' as 'file' child).");
  EXPECT_EQ(node("a-file").inherits_from(), &node("a"));
  ASSERT_EQ(reopen_as({format("a", "b-file"), format("b", "a-file")}), "");
  EXPECT_EQ(node("a-file").inherits_from(), nullptr);
  ASSERT_EQ(reopen_as({format("a", "a-file"), format("b", "b-file")}), "");
  keep = NodeRef();
  EXPECT_EQ(reopen_as({a}), "Cannot change the option 'file.driver'");
}

TEST_F(ReopenTest, WhatAChildIsToldOutlastsItsParentInWhateverOrder) {
  add("a");
  const json::Object parent = format("a", "a-file");
  json::Object child = storage("a-file");
  for (const bool child_first : {true, false}) {
    child.set("detect-zeroes", child_first ? "on" : "off");
    child.set("cache", json::Object{{"no-flush", child_first}});
    std::vector<json::Object> both{parent, child};
    if (child_first) std::ranges::reverse(both);
    ASSERT_EQ(reopen_as(both), "");
    ASSERT_EQ(reopen_as({parent}), "");
    EXPECT_EQ(node("a-file").flags().detect_zeroes == DetectZeroes::kOn, child_first);
    EXPECT_EQ(node("a-file").flags().cache_no_flush, child_first);
  }
}

TEST_F(ReopenTest, DiscardStaysUntilAnotherIsSaid) {
  json::Object options = add("a");
  for (const char* said : {"unmap", "ignore", "unmap"}) {
    json::Object more = options;
    more.set("discard", said);
    const bool unmaps = std::string_view(said) == "unmap";
    EXPECT_EQ(reopen_as({more}), "");
    EXPECT_EQ(node("a").flags().unmap, unmaps);
    EXPECT_EQ(reopen_as({options}), "");
    EXPECT_EQ(node("a").flags().unmap, unmaps);
    EXPECT_TRUE(node("a-file").flags().unmap);
  }
}

TEST_F(ReopenTest, WhoInheritedFromANodeThatWentInheritsFromWhereItDid) {
  json::Object middle = format("middle", storage("middle-file"));
  middle.set("backing", format("base", storage("base-file")));
  json::Object more;
  more.set("backing", middle);
  add("top", std::move(more));
  {
    GraphChange change(*graph);
    ASSERT_TRUE(change.replace_node(*node("top").cow_edge(), node("base")));
    ASSERT_TRUE(change.check());
    change.commit();
  }
  env.run_until_complete(graph->close_unreferenced());
  EXPECT_EQ(graph->find_node("middle"), nullptr);
  EXPECT_EQ(node("base").inherits_from(), &node("top"));
}

TEST_F(ReopenTest, MadeWritableForAWhile) {
  json::Object more;
  more.set("backing", format("base", storage("base-file")));
  add("top", std::move(more));
  const std::string before = picture();
  auto nodes = env.run_until_complete(make_writable(*graph, node("base")));
  ASSERT_TRUE(nodes);
  EXPECT_TRUE(node("base").writable() && node("base-file").writable());
  env.run_until_complete(leave_for_reading(*graph, std::move(*nodes)));
  EXPECT_FALSE(node("base").writable() || node("base-file").writable());

  // One that fails leaves nothing.
  for (script.fail_at = 0, script.asked = 0;; ++script.fail_at, script.asked = 0) {
    const std::string now = picture();
    auto tried = env.run_until_complete(make_writable(*graph, node("base")));
    if (tried) {
      script.fail_at = -1;
      env.run_until_complete(leave_for_reading(*graph, std::move(*tried)));
      break;
    }
    EXPECT_EQ(picture(), now);
  }
}

}  // namespace
}  // namespace blockbed
