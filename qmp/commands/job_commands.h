// job-*, block-job-*, query-jobs and query-block-jobs.
//
// Contract: thin: each finds its job and hands the verb on. The block-job-* family sees block jobs
// only and names a missing one in its own words (DeviceNotActive). Texts and the order of events
// and replies are QEMU 7.2's. Threading: engine thread. The registry outlives the table.
#pragma once

#include "block/jobs/job_registry.h"
#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_job_commands(CommandTable& commands, JobRegistry& jobs);

}  // namespace blockbed
