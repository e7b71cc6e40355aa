#include "block/graph/drain.h"

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/graph.h"

namespace blockbed {

void DrainedSection::end() {
  for (Node* node : std::exchange(nodes_, {})) {
    node->quiesce_end();
    node->graph().drop_reference(*node);
  }
}

Task<DrainedSection> drain(std::vector<Node*> nodes) {
  if (nodes.empty()) co_return DrainedSection();
  Graph& graph = nodes.front()->graph();
  for (Node* node : nodes) {
    graph.add_reference(*node);
    node->quiesce_begin();
  }
  if (!std::ranges::any_of(nodes, [](Node* node) { return node->busy(); })) {
    co_return DrainedSection(std::move(nodes));
  }
  ++graph.waiting_drains_;
  graph.resume_suspended_below(nodes);
  while (std::ranges::any_of(nodes, [](Node* node) { return node->busy(); })) {
    co_await graph.drain_waiters_.wait();
  }
  --graph.waiting_drains_;
  co_return DrainedSection(std::move(nodes));
}

Task<DrainedSection> drain(Node& node) {
  std::vector<Node*> nodes{&node};
  return drain(std::move(nodes));
}

Task<DrainedSection> drain_all(Graph& graph) {
  // Oldest first: the order in which jobs show that they stand still.
  std::vector<Node*> nodes = graph.nodes();
  std::ranges::reverse(nodes);
  return drain(std::move(nodes));
}

}  // namespace blockbed
