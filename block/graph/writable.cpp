#include "block/graph/writable.h"

#include <algorithm>
#include <ranges>

#include "block/graph/drain.h"
#include "block/graph/graph_change.h"

namespace blockbed {

namespace {

void collect(const Graph& graph, Node& node, WritableNodes& found) {
  if (!node.writable()) found.emplace_back(node);
  for (const auto& edge : node.children()) {
    Node* child = edge->node();
    if (child == nullptr || edge->roles().has(ChildRole::kCow)) continue;
    if (child->given_options().contains("read-only")) continue;
    if (std::ranges::find(graph.monitor_nodes(), child) != graph.monitor_nodes().end()) continue;
    collect(graph, *child, found);
  }
}

Expected<void> set_read_only(Graph& graph, const WritableNodes& nodes, bool read_only) {
  GraphChange change(graph);
  for (const NodeRef& node : nodes) change.set_read_only(*node, read_only);
  BB_TRY(change.check());
  change.commit();
  return {};
}

}  // namespace

Task<Expected<WritableNodes>> make_writable(Graph& graph, Node& node) {
  WritableNodes nodes;
  if (node.writable()) co_return nodes;
  collect(graph, node, nodes);
  std::vector<Node*> all;
  for (const NodeRef& each : nodes) all.push_back(&*each);
  DrainedSection drained = co_await drain(std::move(all));
  // Storage first, it is what formats look at.
  for (const NodeRef& each : std::views::reverse(nodes)) {
    BB_CO_TRY(co_await each->driver().prepare_writing());
  }
  BB_CO_TRY(set_read_only(graph, nodes, false));
  co_return nodes;
}

Task<void> leave_for_reading(Graph& graph, WritableNodes nodes) {
  // From the top: a format is done with its storage before that is.
  for (const NodeRef& node : nodes) {
    (void)co_await node->flush();
    // A format that cannot put its tables back must go on trying: it stays writable.
    if (auto done = co_await node->driver().finish_writing(); !done) co_return;
  }
  (void)set_read_only(graph, nodes, true);
}

}  // namespace blockbed
