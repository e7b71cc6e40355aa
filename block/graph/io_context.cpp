#include "block/graph/io_context.h"

#include <algorithm>
#include <utility>

#include "block/graph/node.h"

namespace blockbed {

Expected<void> ContextMove::add(Node& node) {
  // What is there already is there with all that hangs together with it.
  if (node.context() == to_ || std::ranges::find(nodes_, &node) != nodes_.end()) return {};
  nodes_.push_back(&node);
  for (Edge* edge : node.parents()) BB_TRY(edge->parent().join(*this));
  for (const auto& edge : node.children()) {
    if (edge->node() != nullptr) BB_TRY(add(*edge->node()));
  }
  return {};
}

std::function<void()> ContextMove::carry_out() {
  std::vector<std::pair<Node*, IoContext>> before;
  for (Node* node : nodes_) before.emplace_back(node, std::exchange(node->context_, to_));
  return [before = std::move(before)] {
    for (const auto& [node, context] : before) node->context_ = context;
  };
}

Expected<void> move_to_context(Node& node, IoContext to) {
  ContextMove move(std::move(to));
  BB_TRY(move.add(node));
  move.carry_out();
  return {};
}

}  // namespace blockbed
