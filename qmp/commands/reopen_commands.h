// Nodes in use are changed: blockdev-reopen, x-blockdev-change.
//
// Threading: engine thread only.
#pragma once

#include "block/graph/graph.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_reopen_commands(CommandTable& commands, Graph& graph);

}  // namespace blockbed
