// IoContext: where the requests of a node run: in the main loop, or in an iothread.
//
// Problem: clients put nodes, devices and exports into iothreads, and QEMU has rules for that: what
// hangs together runs in one place and moves as one, and some users stay where they are. The engine
// has one thread, so here a context is what those rules speak of, not a thread.
//
// Contract
//  - Nodes that hang together, by an edge or because one job works on them, have the same context.
//  - A move takes all of them along, or none: a root that is bound to a context (Backend::bind)
//    refuses every other one.
//  - Who attaches an edge (GraphChange) brings both ends together: the child follows its parent;
//    where it cannot, the parent follows the child.
//  - When a root lets go, or a node above dies, a node goes back to the main loop, unless others
//    bind it elsewhere.
// Errors: "Cannot change iothread of active block backend". Threading: engine thread only.
// Source of the rules: QEMU 7.2's visible behaviour.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed {

class Node;

// An iothread object. It is gone for clients when it is deleted, and lives on for who runs in it.
struct Iothread {
  std::string id;

  explicit Iothread(std::string name) : id(std::move(name)) {}
};

// Null is the main loop.
using IoContext = std::shared_ptr<const Iothread>;

// All that has to move together to one context.
class ContextMove {
 public:
  explicit ContextMove(IoContext to) : to_(std::move(to)) {}

  const IoContext& to() const { return to_; }

  // The node, and all that hangs together with it; fails when somebody there cannot move. Nothing
  // has moved yet.
  Expected<void> add(Node& node);
  // Now it has. The result undoes it.
  std::function<void()> carry_out();

 private:
  IoContext to_;
  std::vector<Node*> nodes_;
};

// A move of its own.
Expected<void> move_to_context(Node& node, IoContext to);

}  // namespace blockbed
