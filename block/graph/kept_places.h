// KeptPlaces: where nodes ran, for when what they were moved for comes to nothing.
//
// Problem: a command brings nodes into one context (io_context.h) before it knows that it can do
// what it was asked for. Refused, it leaves them where they were.
//
// Contract
//  - add() notes where a node is, before it is moved. What hangs together with it moves along, also
//    back.
//  - put_back(), or death without keep(), moves the nodes back, the one that was added last first,
//    except where somebody has bound them since. The graph is as it was by then.
//  - The nodes are held meanwhile. Dies before the caller closes what nobody refers to.
// Threading: engine thread only, without suspension.
#pragma once

#include <utility>
#include <vector>

#include "block/graph/graph.h"
#include "block/graph/io_context.h"

namespace blockbed {

class KeptPlaces {
 public:
  KeptPlaces() = default;
  KeptPlaces(KeptPlaces&& other) noexcept : places_(std::exchange(other.places_, {})) {}
  KeptPlaces& operator=(KeptPlaces&& other) noexcept {
    put_back();
    places_ = std::exchange(other.places_, {});
    return *this;
  }
  ~KeptPlaces() { put_back(); }

  void add(Node& node) { places_.push_back({NodeRef(node), node.context()}); }
  // They stay where they are now.
  void keep() { places_.clear(); }
  void put_back() {
    while (!places_.empty()) {
      Place place = std::move(places_.back());
      places_.pop_back();
      (void)move_to_context(*place.node, std::move(place.context));
    }
  }

 private:
  struct Place {
    NodeRef node;
    IoContext context;
  };
  std::vector<Place> places_;
};

}  // namespace blockbed
