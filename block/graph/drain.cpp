#include "block/graph/drain.h"

#include <algorithm>
#include <set>

#include "block/graph/backend.h"
#include "block/graph/graph.h"

namespace blockbed {

void DrainedSection::end() {
  for (Node* node : std::exchange(nodes_, {})) {
    node->quiesce_end();
    node->graph().drop_reference(*node);
  }
}

namespace {

// A request that a drain waits for may itself wait far below: for its turn in a throttle group. The
// drivers there are told as if their nodes were drained, so that they let it go. Their other users
// are not stopped.
class NothingHoldsBelow {
 public:
  explicit NothingHoldsBelow(const std::vector<Node*>& tops) {
    for (Node* top : tops) add_below(*top);
    for (const NodeRef& node : below_) node->driver().drained_begin();
  }
  NothingHoldsBelow(const NothingHoldsBelow&) = delete;
  NothingHoldsBelow& operator=(const NothingHoldsBelow&) = delete;
  ~NothingHoldsBelow() {
    for (const NodeRef& node : below_) node->driver().drained_end();
  }

 private:
  void add_below(Node& node) {
    for (const auto& edge : node.children()) {
      Node* child = edge->node();
      if (child == nullptr || !child->is_open() || !seen_.insert(child).second) continue;
      below_.emplace_back(*child);
      add_below(*child);
    }
  }

  std::set<const Node*> seen_;
  std::vector<NodeRef> below_;
};

}  // namespace

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
  {
    const NothingHoldsBelow hastened(nodes);
    graph.resume_suspended_below(nodes);
    while (std::ranges::any_of(nodes, [](Node* node) { return node->busy(); })) {
      co_await graph.drain_waiters_.wait();
    }
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
