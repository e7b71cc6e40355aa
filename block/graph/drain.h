// Drained sections: a node with no request in flight and none admitted.
//
// Problem: an edge may only change, and a point in time only be taken, while nothing moves.
//
// Contract
//  - `DrainedSection section = co_await drain(node);` waits until no request of the node, and
//    nothing that its parents started (recursively up to the roots), is in flight; until the
//    section ends none is admitted. Sections nest.
//  - While a drain waits, nothing below its nodes makes requests wait: limits of throttle filters
//    are lifted there, breakpoints resumed.
//  - A section keeps its nodes alive. Ending it (end() or destruction) lets the parents go on at
//    once.
//  - Never drain from inside a request or from code that a drain waits for: it would wait for
//    itself.
// Threading: engine thread only.
#pragma once

#include <utility>
#include <vector>

#include "block/graph/node.h"

namespace blockbed {

class [[nodiscard]] DrainedSection {
 public:
  DrainedSection() = default;
  DrainedSection(DrainedSection&& other) noexcept : nodes_(std::exchange(other.nodes_, {})) {}
  DrainedSection& operator=(DrainedSection&& other) noexcept {
    end();
    nodes_ = std::exchange(other.nodes_, {});
    return *this;
  }
  ~DrainedSection() { end(); }
  void end();

 private:
  friend Task<DrainedSection> drain(std::vector<Node*> nodes);
  explicit DrainedSection(std::vector<Node*> nodes) : nodes_(std::move(nodes)) {}

  std::vector<Node*> nodes_;
};

Task<DrainedSection> drain(Node& node);
Task<DrainedSection> drain(std::vector<Node*> nodes);
// All nodes of the graph, and so all their roots.
Task<DrainedSection> drain_all(Graph& graph);

}  // namespace blockbed
