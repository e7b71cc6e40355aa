#include "block/graph/frozen_chain.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/runtime/assert.h"

namespace blockbed {

Expected<FrozenChain> FrozenChain::freeze(Node& top, Node& base) {
  if (&top == &base) return FrozenChain();
  return freeze(*top.filter_or_cow_edge(), base);
}

Expected<FrozenChain> FrozenChain::freeze(Edge& first, Node& base) {
  BB_ASSERT(chain_contains(*first.node(), base));
  std::vector<Edge*> links;
  for (Edge* link = &first;; link = link->node()->filter_or_cow_edge()) {
    if (link->frozen()) {
      return fail(fmt::format("Cannot change '{}' link from '{}' to '{}'", link->name(),
                              link->parent().as_node()->name(), link->node()->name()));
    }
    if (link->node()->driver().links_to_it_stay_free()) {
      return fail(
          fmt::format("Cannot freeze '{}' link to '{}'", link->name(), link->node()->name()));
    }
    links.push_back(link);
    if (link->node() == &base) break;
  }
  FrozenChain chain;
  chain.links_ = std::move(links);
  for (Edge* link : chain.links_) link->frozen_ = true;
  return chain;
}

void FrozenChain::release() {
  for (Edge* link : std::exchange(links_, {})) link->frozen_ = false;
}

}  // namespace blockbed
