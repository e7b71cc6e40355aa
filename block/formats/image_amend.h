// Changing the format options of an image that is open (x-blockdev-amend).
//
// Contract: amend_of() finds what amends images of this kind; null when the format has nothing of
// the sort. The change itself holds no lock and fails with a text of QEMU's, the image unchanged.
// Threading: engine thread only.
#pragma once

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Node;
namespace schema {
struct BlockdevAmendOptions;
}  // namespace schema

using AmendImage = Task<Expected<void>> (*)(Node& node,
                                            const schema::BlockdevAmendOptions& options);
AmendImage amend_of(const Node& node);

}  // namespace blockbed
