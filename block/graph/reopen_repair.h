// Images that a crash left in need of repair, and that are to be written to.
//
// Problem: an image that was not closed is made good when it is opened for writing; one that was
// opened for reading waits for whoever makes it writable. Drivers prepare for that by reading
// only (Driver::reopen_prepare): the storage below is not there to write before all is prepared.
//
// Contract
//  - `nodes` are those that a reopen is to make writable. Those of them whose drivers ask for it
//    (Driver::needs_repair) are repaired. As long as that takes, they and the storage below them
//    that is among `nodes` can be written to; then all is as it was, and the reopen goes on from
//    there.
//  - After a failure the reopen is not to go on. What was repaired until then stays repaired.
//  - The nodes are drained, and the caller holds the graph lock.
// Errors: of the drivers, and of files that cannot be opened for writing.
// Threading: engine thread only.
#pragma once

#include <vector>

#include "block/graph/graph.h"

namespace blockbed {

Task<Expected<void>> repair_for_writing(Graph& graph, std::vector<Node*> nodes);

}  // namespace blockbed
