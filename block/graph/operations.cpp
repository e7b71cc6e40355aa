#include "block/graph/operations.h"

#include <fmt/format.h>

#include <ranges>

#include "block/graph/node.h"
#include "block/graph/shown_name.h"

namespace blockbed {

namespace {

// What may be done to a backing file: only what leaves it as it is, or means the chain as a whole.
constexpr OperationSet kAllowedBelow = {Operation::kCommitTarget, Operation::kStream,
                                        Operation::kBackupSource, Operation::kBackupTarget};

}  // namespace

Expected<void> NodeOperations::check(Operation operation) const {
  for (auto ban = bans_.rbegin(); ban != bans_.rend(); ++ban) {
    if (!(*ban)->operations_.has(operation)) continue;
    return fail(fmt::format("Node '{}' is busy: {}", shown_name(node_), (*ban)->reason_));
  }
  if (kAllowedBelow.has(operation)) return {};
  for (const Edge* edge : std::views::reverse(node_.parents())) {
    const Node* parent = edge->parent().as_node();
    if (parent == nullptr || !edge->roles().has(ChildRole::kCow)) continue;
    return fail(fmt::format("Node '{}' is busy: node is used as backing hd of '{}'",
                            shown_name(node_), parent->name()));
  }
  return {};
}

OperationBan::OperationBan(NodeOperations& node, OperationSet operations, std::string reason)
    : node_(node), operations_(operations), reason_(std::move(reason)) {
  node_.bans_.push_back(this);
}

OperationBan::~OperationBan() { std::erase(node_.bans_, this); }

}  // namespace blockbed
