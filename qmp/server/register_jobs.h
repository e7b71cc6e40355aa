// All commands that start or steer jobs, in one call: the families are in qmp/commands.
#pragma once

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed::server {

void register_job_families(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed::server
