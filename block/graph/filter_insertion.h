// Filters that are put between a node and those who use it, and taken out again.
//
// Problem: a job that must see what is written to a disk while it works stands over that disk for
// a while; who uses the disk then uses it through the filter, and notices nothing.
//
// Contract
//  - The caller holds the graph lock and has drained the node that the filter is put over, or the
//    filter that is taken out.
//  - A failed insertion leaves nothing behind. A removal cannot fail: less is forbidden without the
//    filter than with it. The filter is closed when remove_filter() returns and nothing else refers
//    to it.
// Errors: of opening and of the permissions; for a filter that options describe with "Could not
// create node: " or "Could not replace node: " in front, as QEMU words them.
// Threading: engine thread only.
#pragma once

#include "block/graph/graph.h"

namespace blockbed {

// A filter that options describe; they name its place (`file`) and everything else.
Task<Expected<NodeRef>> insert_filter(Graph& graph, Node& below, Graph::OpenRequest request);

// A filter of which no options speak: one that a job makes for itself. The child is named
// "backing", as that of QEMU's own job filters.
struct JobFilter {
  // None: a generated name, and reports on devices look through the filter (Node::hidden).
  std::optional<std::string> node_name;
  bool read_only = false;
  std::function<std::unique_ptr<Driver>(Node& node, Edge& below)> make;

  JobFilter() = default;
};
Task<Expected<NodeRef>> insert_filter(Graph& graph, Node& below, JobFilter filter);

Task<void> remove_filter(Graph& graph, NodeRef filter);

}  // namespace blockbed
