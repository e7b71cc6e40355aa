// The human monitor's `commit`: what a layer holds goes into its backing file, at once.
//
// Contract
//  - The monitor waits until it is done, and so do guests: the layer and its backing file are
//    drained all the while, so that no write is lost between copying and emptying.
//  - A backing file that is for reading is made writable for the time, with the storage that was
//    opened for it. It grows when the layer above is longer.
//  - The copy is durable before the layer is emptied; a format that cannot be emptied keeps its
//    data, which then is there twice and reads the same.
//  - `all` takes every layer that somebody uses, and ends with the first failure.
// Errors: QEMU's texts. Threading: engine thread; takes the graph lock.
#pragma once

#include "block/graph/graph.h"
#include "qmp/monitor/human_command.h"

namespace blockbed {

void register_human_commit(HumanTable& human, Graph& graph);

}  // namespace blockbed
