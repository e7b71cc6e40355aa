// Nodes opened for reading that must be written to for a while.
//
// Problem: a backing file is open for reading only; committing into it makes it, and the storage
// that was opened together with it, writable, and leaves both as they were afterwards.
//
// Contract
//  - make_writable() makes the node and its storage writable, or leaves them as they were. Nodes of
//    the user's own, and storage that the user wants to be for reading, are not touched; what then
//    cannot be written to is found out by who asks for the permission. A node that is writable
//    already needs nothing.
//  - leave_for_reading() ends it. Who has come to write in the meantime keeps the nodes writable.
//  - The caller holds the graph lock, and has drained whoever stands over the node.
// Errors: of the drivers, and of files that cannot be opened for writing.
// Threading: engine thread only.
#pragma once

#include <vector>

#include "block/graph/graph.h"

namespace blockbed {

// From the top down.
using WritableNodes = std::vector<NodeRef>;

Task<Expected<WritableNodes>> make_writable(Graph& graph, Node& node);
Task<void> leave_for_reading(Graph& graph, WritableNodes nodes);

}  // namespace blockbed
