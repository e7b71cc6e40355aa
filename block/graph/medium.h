// Whether there is a medium behind a node.
//
// Problem: an image that turns out to be corrupt while it is in use is not used any more. The node
// stays, and clients know the state from drives: as if the medium had been taken out.
//
// Contract: a driver in that state has no length (Driver::length answers ENOMEDIUM). Who stands on
// such a node has no medium either. Errors: QEMU's text. Threading: engine thread only.
#pragma once

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Node;

// The node and all that it stands on.
Task<bool> has_medium(Node& node);
// "Device has no medium".
Task<Expected<void>> check_medium(Node& node);

}  // namespace blockbed
