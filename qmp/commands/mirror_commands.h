// drive-mirror and blockdev-mirror.
//
// Contract: the checks and texts of QEMU 7.2, in its order; the work is MirrorJob's
// (block/jobs/mirror.h). Threading: engine thread.
#pragma once

#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_mirror_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
