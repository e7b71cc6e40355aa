// Whether there is a medium behind a node.
//
// Problem: an image that turns out to be corrupt while it is in use is not used any more. The node
// stays, and to clients it is a drive whose medium was taken out: commands that need one refuse.
//
// Contract: a driver that can find its image unusable is a LosableMedium as well; all others keep
// what they opened. Errors: QEMU's text. Threading: engine thread only.
// Source of the rules: what QEMU 7.2 answers to commands about such nodes and those above them.
#pragma once

#include "qmp/schema/error.h"

namespace blockbed {

class Node;

class LosableMedium {
 public:
  virtual ~LosableMedium() = default;
  // Once it is lost, requests and Driver::length() fail with ENOMEDIUM.
  virtual bool medium_lost() const = 0;
};

// The node's own.
bool lost_its_medium(const Node& node);
// What a device needs: neither the node's own is lost, nor that of a node that it stands on.
bool has_medium(const Node& node);
// "Device has no medium".
Expected<void> check_medium(const Node& node);

}  // namespace blockbed
