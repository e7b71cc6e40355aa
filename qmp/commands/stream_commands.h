// block-stream.
//
// Threading: engine thread.
#pragma once

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

// Graph and registry outlive the table.
void register_stream_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
