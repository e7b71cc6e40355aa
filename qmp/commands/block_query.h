// query-block, query-named-block-nodes, query-blockstats and x-debug-query-block-graph.
//
// Contract: replies have QEMU's shapes, order of entries and order of keys. Drives and devices
// appear in the order in which they came, nodes newest first; statistics of nodes oldest first (so
// QEMU). Threading: engine thread.
#pragma once

#include "block/graph/graph.h"
#include "qmp/commands/device_directory.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

class JobRegistry;

// The graph, the jobs and the directory outlive the table.
void register_block_query_commands(CommandTable& commands, Graph& graph, const JobRegistry& jobs,
                                   const DeviceDirectory& devices);

}  // namespace blockbed
