// Nodes and iothreads: x-blockdev-set-iothread.
//
// Threading: engine thread only.
#pragma once

#include "block/graph/graph.h"
#include "qmp/commands/objects.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_iothread_commands(CommandTable& commands, Graph& graph, ObjectStore& objects);

}  // namespace blockbed
