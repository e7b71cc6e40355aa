// blockdev-create and x-blockdev-amend.
//
// Contract: the reply comes when the job has begun (and, for what needs no waiting, ended); its
// outcome is the job's. Drivers that cannot make or
// amend images are refused in QEMU 7.2's words. Threading:
// engine thread.
#pragma once

#include "block/graph/graph.h"
#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

// Graph and registry outlive the table.
void register_create_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
