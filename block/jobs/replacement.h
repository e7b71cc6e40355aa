// Which nodes a copy of a disk may take the place of (`replaces` of a mirror).
//
// Contract: asked when the job begins and again when it ends: others may have come meanwhile.
// Source of the rule: QEMU 7.2, tried out. Threading: engine thread only.
#pragma once

#include "block/graph/node.h"

namespace blockbed {

// True when nobody sees another disk after `to_replace` has become a copy of `top`: only filters
// lie between them, or a quorum, which outvotes a member that shows something else.
bool may_be_replaced(const Node& top, const Node& to_replace);

}  // namespace blockbed
