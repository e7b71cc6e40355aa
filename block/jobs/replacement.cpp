#include "block/jobs/replacement.h"

#include <algorithm>

#include "block/filters/quorum.h"

namespace blockbed {

namespace {

// Whether anybody but the parent behind `edge` relies on what the node shows.
bool others_rely_on(const Node& node, const Edge& edge) {
  return std::ranges::any_of(node.parents(), [&edge](const Edge* other) {
    const PermissionPair& permissions = other->permissions();
    return other != &edge && (permissions.needs.has(Permission::kConsistentRead) ||
                              !permissions.shares.has(Permission::kWrite));
  });
}

}  // namespace

bool may_be_replaced(const Node& top, const Node& to_replace) {
  if (&top == &to_replace) return true;
  if (top.driver().name() == Quorum::kName) {
    return std::ranges::any_of(top.children(), [&](const auto& edge) {
      return may_be_replaced(*edge->node(), to_replace) && !others_rely_on(*edge->node(), *edge);
    });
  }
  const Edge* below = top.filtered_edge();
  return below != nullptr && may_be_replaced(*below->node(), to_replace);
}

}  // namespace blockbed
