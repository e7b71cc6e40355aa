#include "block/graph/writable.h"

#include "block/graph/reopen.h"

namespace blockbed {

Task<Expected<WritableNodes>> make_writable(Graph& graph, Node& node) {
  WritableNodes nodes;
  if (node.writable()) co_return nodes;
  if (node.flags().inactive) co_return fail("Block node is read-only");
  BB_CO_TRY(co_await reopen_read_only(graph, node, false));
  nodes.emplace_back(node);
  co_return nodes;
}

Task<void> leave_for_reading(Graph& graph, WritableNodes nodes) {
  // Who has come to write, and a format that cannot put its tables back, keep it writable.
  for (const NodeRef& node : nodes) (void)co_await reopen_read_only(graph, *node, true);
}

}  // namespace blockbed
