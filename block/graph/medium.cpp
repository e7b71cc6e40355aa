#include "block/graph/medium.h"

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

namespace blockbed {

Task<bool> has_medium(Node& node) {
  // A protocol has what it opened.
  if (node.driver().is_protocol()) co_return true;
  auto length = co_await node.driver().length();
  if (!length && length.error().number() == ENOMEDIUM) co_return false;
  for (const auto& edge : node.children()) {
    if (edge->node() != nullptr && !co_await has_medium(*edge->node())) co_return false;
  }
  co_return true;
}

Task<Expected<void>> check_medium(Node& node) {
  if (co_await has_medium(node)) co_return Expected<void>();
  co_return fail("Device has no medium");
}

}  // namespace blockbed
