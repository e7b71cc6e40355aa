// FrozenChain: links between nodes that nobody may change for a while.
//
// Problem: a job that works on a chain of backing files relies on it: what lies between its top and
// its base must stay there until the job has ended. And who reads an instant through a backing file
// relies on all that the backing file is made of.
//
// Contract
//  - freeze() freezes the link below each node of the chain from `top` down to `base`, filters and
//    backing files, whole or not at all. Links that a graph change makes later are not frozen.
//  - keep_all_below() freezes a link, and all links of the nodes that are reached through it.
//  - A frozen link refuses to be changed: "Cannot change frozen 'backing' link from 'a' to 'b'".
//  - Who freezes a chain may be about to change the link from its topmost image to the backing
//    file: nobody else has that link, nor those of the filters above it, frozen meanwhile ("Cannot
//    change 'backing' link from 'a' to 'b'"). All other links are shared by any number of
//    FrozenChains.
//  - A filter that a job will take out again (Node::temporary) cannot be held: "Cannot freeze
//    'backing' link to 'a'".
//  - The links are free again when the last FrozenChain is gone. Whoever keeps one keeps the nodes
//    alive, and lets go of it before it changes the chain itself.
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
  static Expected<FrozenChain> keep_all_below(Edge& first);

  FrozenChain() = default;
  FrozenChain(FrozenChain&& other) noexcept : links_(std::exchange(other.links_, {})) {}
  FrozenChain& operator=(FrozenChain&& other) noexcept {
    release();
    links_ = std::exchange(other.links_, {});
    return *this;
  }
  ~FrozenChain() { release(); }
  void release();
  explicit operator bool() const { return !links_.empty(); }

 private:
  // The first `alone` of them for nobody else.
  static Expected<FrozenChain> hold(std::vector<Edge*> links, std::size_t alone);

  std::vector<Edge*> links_;
};

// What is told to who wants to change a link that is frozen.
std::unexpected<Error> cannot_change_frozen(const Edge& link);

}  // namespace blockbed
