// Activation: nodes that were opened for a guest before it has arrived.
//
// Problem: a machine that waits for a guest has the guest's images open while the machine that it
// comes from still writes to them. Its nodes are inactive (NodeFlags::inactive): they read, take no
// permission to write and keep others from nothing. When the images are handed over, what was read
// of them in the meantime may be out of date.
//
// Contract
//  - While Graph::awaits_guest(), nodes that users define begin inactive: inherited_by_roots() says
//    so to whoever opens them. Their children follow.
//  - activate() takes the node and all that lies below it into use, from the bottom up: each is
//    drained, gets its permissions, and its format reads the image anew (Driver::reopen_prepare and
//    what follows, ReopenState::others_wrote). Devices above it take what they want of it. Nothing
//    happens to what is active already. A failure leaves the node inactive, and active what was
//    activated before.
//  - The caller holds the graph lock.
// Errors: QEMU's texts. Threading: engine thread only.
// Source of the rules: QEMU 7.2, as `cont` and block-export-add show them.
#pragma once

#include <optional>

#include "block/graph/graph.h"

namespace blockbed {

Task<Expected<void>> activate(Node& node);
Task<Expected<void>> activate_all(Graph& graph);

// How what a user defines is opened where its options say nothing else.
std::optional<InheritedOptions> inherited_by_roots(const Graph& graph);

}  // namespace blockbed
