#include "block/graph/frozen_chain.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/chain.h"
#include "block/runtime/assert.h"

namespace blockbed {

Expected<FrozenChain> FrozenChain::freeze(Node& top, Node& base) {
  if (&top == &base) return FrozenChain();
  return freeze(*top.filter_or_cow_edge(), base);
}

Expected<FrozenChain> FrozenChain::freeze(Edge& first, Node& base) {
  BB_ASSERT(chain_contains(*first.node(), base));
  std::vector<Edge*> links{&first};
  while (links.back()->node() != &base) {
    links.push_back(links.back()->node()->filter_or_cow_edge());
  }
  // The topmost image's, with what leads there.
  const auto below_top = std::ranges::find_if(
      links, [](const Edge* link) { return link->roles().has(ChildRole::kCow); });
  const auto alone = std::min<std::ptrdiff_t>(below_top - links.begin() + 1, std::ssize(links));
  return hold(std::move(links), static_cast<std::size_t>(alone));
}

namespace {

void collect(Edge& link, std::vector<Edge*>& links) {
  // Nodes may be reached in several ways.
  if (std::ranges::find(links, &link) != links.end()) return;
  links.push_back(&link);
  for (const auto& below : link.node()->children()) collect(*below, links);
}

}  // namespace

std::unexpected<Error> cannot_change_frozen(const Edge& link) {
  const Node* parent = link.parent().as_node();
  return fail(fmt::format("Cannot change frozen '{}' link from '{}' to '{}'", link.name(),
                          parent == nullptr ? link.parent().describe_user() : parent->name(),
                          link.node()->name()));
}

Expected<FrozenChain> FrozenChain::keep_all_below(Edge& first) {
  std::vector<Edge*> links;
  collect(first, links);
  return hold(std::move(links), 0);
}

Expected<FrozenChain> FrozenChain::hold(std::vector<Edge*> links, std::size_t alone) {
  for (std::size_t i = 0; i < links.size(); ++i) {
    const Edge& link = *links[i];
    if (link.holders_ == Edge::kOneAlone || (link.holders_ > 0 && i < alone)) {
      return fail(fmt::format("Cannot change '{}' link from '{}' to '{}'", link.name(),
                              link.parent().as_node()->name(), link.node()->name()));
    }
    if (link.node()->temporary()) {
      return fail(fmt::format("Cannot freeze '{}' link to '{}'", link.name(), link.node()->name()));
    }
  }
  for (std::size_t i = 0; i < links.size(); ++i) {
    links[i]->holders_ = i < alone ? Edge::kOneAlone : links[i]->holders_ + 1;
  }
  FrozenChain chain;
  chain.links_ = std::move(links);
  return chain;
}

void FrozenChain::release() {
  for (Edge* link : std::exchange(links_, {})) {
    link->holders_ = link->holders_ == Edge::kOneAlone ? 0 : link->holders_ - 1;
  }
}

}  // namespace blockbed
