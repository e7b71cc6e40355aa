// The human monitor's commands for block jobs and snapshots of disks.
//
// Contract: each is the QMP command of the same purpose with the arguments that the human monitor
// knows; errors are that command's. Threading: engine thread.
#pragma once

#include "qmp/monitor/human_command.h"

namespace blockbed {

void register_human_job_commands(HumanTable& human);

}  // namespace blockbed
