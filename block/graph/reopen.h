// Reopening: other options for nodes that are in use.
//
// Problem: a chain that a guest works on gets another cache mode, becomes writable for a commit, is
// given another backing file, or swaps its files with another chain; whoever uses it must not
// notice, and of several nodes all change or none.
//
// Contract
//  - Options name what they change; of a request with `keep` all other options stay as they are,
//    without it they go back to their defaults, but for `discard`, which stays as it is in force.
//    What a node cannot change must be as it is.
//  - A node that is defined in the options of another (Node::inherits_from) is reopened together
//    with that one: with the options that the request has for it, or, when the request names it,
//    with its own. `file` and `backing` may name another node, `backing` none.
//  - reopen() drains the nodes, lets their drivers prepare (Driver::reopen_prepare), and makes one
//    GraphChange of all that is to be different. A failure at any step leaves everything as it was.
//    Nodes that nobody uses any more are for Graph::close_unreferenced().
//  - The caller holds the graph lock.
// Errors: QEMU's texts. Threading: engine thread only.
// Source of the rules: QEMU's documentation of blockdev-reopen, and its tests.
#pragma once

#include <vector>

#include "block/graph/graph.h"
#include "schema/blockdev_options.h"

namespace blockbed {

struct ReopenRequest {
  NodeRef node;
  // The tree that blockdev-add takes.
  json::Object options;
  bool keep = false;
  // The values are strings, as a command line has them; only together with `keep`.
  bool text = false;

  ReopenRequest(NodeRef reopened, json::Object with, bool keep_others)
      : node(std::move(reopened)), options(std::move(with)), keep(keep_others) {}
};

Task<Expected<void>> reopen(Graph& graph, std::vector<ReopenRequest> requests);
// The node, and what inherits from it, for reading only or for writing too. Nothing else changes.
Task<Expected<void>> reopen_read_only(Graph& graph, Node& node, bool read_only);

// What the node was opened with, and its children as they are now: whole, as a driver is told.
Expected<schema::BlockdevOptions> options_in_force(const Node& node);

// What a driver is told: how its node will be.
struct ReopenState {
  NodeFlags flags;
  // Checked, whole: what was not given has its default or its old value.
  schema::BlockdevOptions options;
  // What its `file` will be, when that is another node than now; null: it stays.
  Node* other_file = nullptr;
  // What was read of the image may be out of date (activation.h).
  bool others_wrote = false;

  bool writable() const { return !flags.read_only && !flags.inactive; }
};

}  // namespace blockbed
