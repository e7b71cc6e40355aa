// picture_of(): everything about a graph that somebody can see, as text to compare.
//
// Threading: engine thread only.
#pragma once

#include <string>

#include "block/graph/graph.h"
#include "qmp/schema/json_write.h"

namespace blockbed::test {

inline std::string picture_of(const NodeFlags& flags) {
  std::string text = flags.read_only ? "ro" : "rw";
  if (flags.auto_read_only) text += " auto";
  if (flags.force_share) text += " shared";
  if (flags.cache_direct) text += " direct";
  if (flags.cache_no_flush) text += " no-flush";
  if (flags.unmap) text += " unmap";
  if (flags.detect_zeroes == DetectZeroes::kOn) text += " detect";
  if (flags.detect_zeroes == DetectZeroes::kUnmap) text += " detect-unmap";
  return text;
}

inline std::string picture_of(const Node& node) {
  std::string text = node.name() + " " + picture_of(node.flags()) + " ";
  text += json::to_string(json::Value(node.given_options()));
  if (node.inherits_from() != nullptr) text += " of " + node.inherits_from()->name();
  for (const auto& edge : node.children()) {
    text += " " + edge->name() + "=" + (edge->node() ? edge->node()->name() : "nothing") + "/" +
            permission_words(edge->permissions().needs) + "/" +
            permission_words(edge->permissions().shares) + (edge->frozen() ? "/frozen" : "");
  }
  for (const Edge* edge : node.parents()) {
    text += " for " + edge->parent().describe_user() + "/" +
            permission_words(edge->permissions().needs) + "/" +
            permission_words(edge->permissions().shares);
  }
  return text;
}

inline std::string picture_of(const Graph& graph) {
  std::string text;
  for (const Node* node : graph.nodes()) text += picture_of(*node) + "\n";
  return text;
}

}  // namespace blockbed::test
