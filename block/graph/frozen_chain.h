// FrozenChain: the links of a chain that nobody may change for a while.
//
// Problem: a job that works on a chain of backing files relies on it: what lies between its top and
// its base must stay there until the job has ended.
//
// Contract
//  - freeze() freezes the link below each node of the chain from `top` down to `base`, filters and
//  backing files, whole or not at all. Links that a graph change makes later are not frozen.
//  - A frozen link refuses to be changed: "Cannot change frozen 'backing' link from 'a' to 'b'".
//  - Chains do not overlap: a link that is frozen refuses to be frozen again
//  ("Cannot change 'backing' link from 'a' to 'b'"). The links are free
//  again when the FrozenChain is gone. Whoever keeps one keeps the nodes alive, and lets go of it
//  before it changes the chain itself.
// Errors: QEMU's texts; a chain that `base` is not part of is the caller's mistake.
// Threading: engine thread only, without suspension.
#pragma once

#include <vector>

#include "block/graph/node.h"

namespace blockbed {

class [[nodiscard]] FrozenChain {
 public:
  static Expected<FrozenChain> freeze(Node& top, Node& base);
  // From this link on, which leads into the chain of `base`.
  static Expected<FrozenChain> freeze(Edge& first, Node& base);

  FrozenChain() = default;
  FrozenChain(FrozenChain&& other) noexcept : links_(std::exchange(other.links_, {})) {}
  FrozenChain& operator=(FrozenChain&& other) noexcept {
    release();
    links_ = std::exchange(other.links_, {});
    return *this;
  }
  ~FrozenChain() { release(); }
  void release();

 private:
  std::vector<Edge*> links_;
};

}  // namespace blockbed
