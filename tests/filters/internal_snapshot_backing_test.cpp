// An internal snapshot shows the image's backing file where it has nothing of its own: as long as
// it is read, nothing below the image changes.
#include <gtest/gtest.h>

#include "block/graph/filter_insertion.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph_change.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/reopen.h"
#include "tests/filters/filters_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/support/graph_picture.h"

namespace blockbed {
namespace {

using test::FilterWorld;
using test::kKiB;

constexpr uint64_t kSize = 256 * kKiB;

// disk -> mid -> base: the base is full of ones, the others are empty. `disk` has the snapshot "s".
class InternalSnapshotBacking : public testing::Test {
 protected:
  InternalSnapshotBacking() {
    base_ = &world_.file("base", FilterWorld::filled(kSize, 1));
    other_ = &world_.file("other", FilterWorld::filled(kSize, 2));
    mid_ = &image("mid", "base");
    disk_ = &image("disk", "mid");
    snapshot(*disk_);
  }

  static json::Object options(const std::string& name, json::Value backing) {
    json::Object options = FilterWorld::options("qcow2", name);
    options.set("file", name + "-file");
    options.set("backing", std::move(backing));
    return options;
  }
  Node& image(const std::string& name, json::Value backing) {
    qcow2::CreateOptions create;
    create.size = kSize;
    EXPECT_TRUE(world_.env.run(qcow2::test::create_image(world_.env, name, create)));
    json::Object file = FilterWorld::options("file", name + "-file");
    file.set("filename", name);
    world_.open(std::move(file));
    return world_.open(options(name, std::move(backing)));
  }
  void snapshot(Node& node) {
    InternalSnapshot snapshot;
    snapshot.name = "s";
    EXPECT_TRUE(world_.env.run(node.driver().internal_snapshots()->create(snapshot)));
  }
  static json::Object access(const std::string& name, const std::string& file = "disk") {
    json::Object options = FilterWorld::options("snapshot-access", name);
    options.set("file", file);
    options.set("internal-snapshot", json::Object{{"name", "s"}});
    return options;
  }
  Node& read(const std::string& name = "access", const std::string& file = "disk") {
    return world_.open(access(name, file));
  }
  // A refusal leaves everything as it was.
  std::string reopen_as(json::Object options) {
    const std::string before = test::picture_of(*world_.graph);
    NodeRef node(*world_.graph->find_node(options.find("node-name")->as_string()));
    std::vector<ReopenRequest> requests;
    requests.emplace_back(std::move(node), std::move(options), /*keep_others=*/false);
    const auto done = world_.env.run(blockbed::reopen(*world_.graph, std::move(requests)));
    if (done) return "";
    EXPECT_EQ(test::picture_of(*world_.graph), before);
    return done.error().description;
  }
  std::string insert_filter_over(Node& node) {
    const auto insert = [](Graph& graph, Node& below) -> Task<Expected<NodeRef>> {
      DrainedSection drained = co_await drain(below);
      Graph::OpenRequest request;
      request.options = FilterWorld::options("copy-on-read", "filter");
      request.options.set("file", below.name());
      co_return co_await insert_filter(graph, below, std::move(request));
    };
    auto filter = world_.env.run(insert(*world_.graph, node));
    if (!filter) return filter.error().description;
    filter_ = std::move(*filter);
    return "";
  }
  void remove_filter() {
    const auto remove = [](Graph& graph, NodeRef filter) -> Task<void> {
      DrainedSection drained = co_await drain(*filter);
      co_await blockbed::remove_filter(graph, std::move(filter));
    };
    world_.env.run(remove(*world_.graph, std::move(filter_)));
  }
  std::string write_refused(Node& node) {
    Backend writer(*world_.graph, "", {Permission::kWrite, Permissions::all()});
    const Expected<void> inserted = writer.insert(node);
    world_.env.run(writer.remove());
    return inserted ? "" : inserted.error().description;
  }
  void expect_bytes(Node& node, unsigned char byte) {
    std::vector<std::byte> bytes(kSize);
    ASSERT_TRUE(world_.env.run(node.read(0, IoVector(bytes.data(), kSize))));
    EXPECT_EQ(bytes, std::vector<std::byte>(kSize, std::byte{byte}));
  }

  FilterWorld world_{1};
  Node* base_;
  Node* other_;
  Node* mid_;
  Node* disk_;
  NodeRef filter_;
};

TEST_F(InternalSnapshotBacking, NoLinkBelowTheImageChanges) {
  Node& access = read();
  const struct {
    json::Object options;
    const char* refusal;
  } kChanges[] = {
      {options("disk", json::Value()), "Cannot change frozen 'backing' link from 'disk' to 'mid'"},
      {options("disk", "base"), "Cannot change frozen 'backing' link from 'disk' to 'mid'"},
      {options("mid", "other"), "Cannot change frozen 'backing' link from 'mid' to 'base'"},
      {options("mid", json::Value()), "Cannot change frozen 'backing' link from 'mid' to 'base'"},
  };
  for (const auto& change : kChanges) EXPECT_EQ(reopen_as(change.options), change.refusal);

  json::Object other_file = FilterWorld::options("file", "copy");
  world_.env.storage().put("copy", world_.env.storage().content("mid"));
  other_file.set("filename", "copy");
  world_.open(std::move(other_file));
  json::Object over_copy = options("mid", "base");
  over_copy.set("file", "copy");
  EXPECT_EQ(reopen_as(over_copy), "Cannot change frozen 'file' link from 'mid' to 'mid-file'");

  for (Node* below : {mid_, base_}) {
    EXPECT_TRUE(insert_filter_over(*below).starts_with(
        "Could not replace node: Cannot change 'backing' link to '"));
  }
  expect_bytes(access, 1);

  world_.drop(access);
  EXPECT_EQ(reopen_as(over_copy), "");
  EXPECT_EQ(reopen_as(options("disk", "base")), "");
  EXPECT_EQ(reopen_as(options("disk", json::Value())), "");
}

TEST_F(InternalSnapshotBacking, WhatIsAboveAndTheImageItselfMayChange) {
  Node& access = read();
  json::Object lazy = options("disk", "mid");
  lazy.set("lazy-refcounts", true);
  EXPECT_EQ(reopen_as(lazy), "");
  Backend& guest = world_.guest(*disk_);
  ASSERT_TRUE(world_.write(guest, 0, kSize, 3));
  snapshot(*disk_);
  EXPECT_EQ(insert_filter_over(*disk_), "");
  expect_bytes(access, 1);
  remove_filter();
  expect_bytes(access, 1);
}

TEST_F(InternalSnapshotBacking, NobodyWritesBelowTheImage) {
  Node& access = read();
  EXPECT_EQ(write_refused(*mid_),
            "Permission conflict on node 'mid': permissions 'write' are both required by an "
            "unnamed block device (uses node 'mid' as 'root' child) and unshared by node 'disk' "
            "(uses node 'mid' as 'backing' child).");
  EXPECT_NE(write_refused(*base_), "");
  EXPECT_EQ(write_refused(*disk_), "");
  world_.drop(access);
  EXPECT_EQ(write_refused(*mid_), "");
  EXPECT_EQ(write_refused(*base_), "");
}

TEST_F(InternalSnapshotBacking, IsNotReadWhileSomebodyWritesBelow) {
  const std::string before = test::picture_of(*world_.graph);
  world_.guest(*base_);
  EXPECT_EQ(world_.refusal(access("access")),
            "Permission conflict on node 'base': permissions 'write' are both required by an "
            "unnamed block device (uses node 'base' as 'root' child) and unshared by node 'mid' "
            "(uses node 'base' as 'backing' child).");
  world_.drop_guests();
  EXPECT_EQ(test::picture_of(*world_.graph), before);
  expect_bytes(read(), 1);
}

TEST_F(InternalSnapshotBacking, ReadersShareTheLinks) {
  const char* const kRefusal = "Cannot change frozen 'backing' link from 'disk' to 'mid'";
  std::vector<Node*> readers{&read("a"), &read("b"), &read("c")};
  for (Node* reader : readers) {
    EXPECT_EQ(reopen_as(options("disk", "base")), kRefusal);
    EXPECT_NE(write_refused(*mid_), "");
    world_.drop(*reader);
  }
  EXPECT_EQ(write_refused(*mid_), "");
  EXPECT_EQ(reopen_as(options("disk", "base")), "");
}

TEST_F(InternalSnapshotBacking, ImagesOfOneBackingFileAreReadBesideEachOther) {
  snapshot(image("twin", "mid"));
  Node& first = read("a", "disk");
  Node& second = read("b", "twin");
  world_.drop(first);
  EXPECT_EQ(reopen_as(options("disk", "base")), "");
  EXPECT_EQ(reopen_as(options("mid", "other")),
            "Cannot change frozen 'backing' link from 'mid' to 'base'");
  expect_bytes(second, 1);
}

TEST_F(InternalSnapshotBacking, WhoIsAboutToChangeTheLinkKeepsReadersAway) {
  const std::string before = test::picture_of(*world_.graph);
  {
    auto chain = FrozenChain::freeze(*disk_, *base_);
    ASSERT_TRUE(chain);
    EXPECT_EQ(world_.refusal(access("access")),
              "Cannot change 'backing' link from 'disk' to 'mid'");
  }
  EXPECT_EQ(test::picture_of(*world_.graph), before);
  read();
  const auto chain = FrozenChain::freeze(*disk_, *mid_);
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error().description, "Cannot change 'backing' link from 'disk' to 'mid'");
}

// It changes the link of the overlay, and needs the others to stay, as the reader does.
TEST_F(InternalSnapshotBacking, AChainThatBeginsAboveTheImageIsNotInTheWay) {
  Node& overlay = image("overlay", "disk");
  for (const bool reader_first : {true, false}) {
    Node* access = reader_first ? &read() : nullptr;
    auto chain = FrozenChain::freeze(overlay, *base_);
    ASSERT_TRUE(chain) << chain.error().description;
    if (access == nullptr) access = &read();
    if (reader_first) {
      chain->release();
    } else {
      world_.drop(*access);
    }
    EXPECT_EQ(reopen_as(options("disk", "base")),
              "Cannot change frozen 'backing' link from 'disk' to 'mid'");
    if (reader_first) {
      world_.drop(*access);
    } else {
      chain->release();
    }
    EXPECT_FALSE(disk_->cow_edge()->frozen());
  }
}

TEST_F(InternalSnapshotBacking, AFilterThatAJobWillTakeOutKeepsReadersAway) {
  ASSERT_EQ(insert_filter_over(*base_), "");
  EXPECT_EQ(world_.refusal(access("access")), "Cannot freeze 'backing' link to 'filter'");
  remove_filter();
  expect_bytes(read(), 1);
}

TEST_F(InternalSnapshotBacking, ABackingFileThatComesLaterDoesNotShow) {
  Node& alone = image("alone", json::Value());
  snapshot(alone);
  Node& access = read("access", "alone");
  EXPECT_EQ(reopen_as(options("alone", "mid")), "");
  expect_bytes(alone, 1);
  expect_bytes(access, 0);
  const auto status = world_.env.run(access.block_status(0, kSize));
  ASSERT_TRUE(status);
  EXPECT_TRUE(status->zero);
  EXPECT_EQ(reopen_as(options("alone", json::Value())), "");
  EXPECT_EQ(write_refused(*mid_), "");
}

}  // namespace
}  // namespace blockbed
