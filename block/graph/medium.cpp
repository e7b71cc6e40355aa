#include "block/graph/medium.h"

#include <algorithm>

#include "block/graph/node.h"

namespace blockbed {

bool lost_its_medium(const Node& node) {
  const auto* medium = dynamic_cast<const LosableMedium*>(&node.driver());
  return medium != nullptr && medium->medium_lost();
}

bool has_medium(const Node& node) {
  return !lost_its_medium(node) && std::ranges::all_of(node.children(), [](const auto& edge) {
    return edge->node() == nullptr || has_medium(*edge->node());
  });
}

Expected<void> check_medium(const Node& node) {
  if (has_medium(node)) return {};
  return fail("Device has no medium");
}

}  // namespace blockbed
