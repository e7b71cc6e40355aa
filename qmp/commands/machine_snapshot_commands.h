// savevm, loadvm, delvm and `info snapshots` of the human monitor; the jobs snapshot-save,
// snapshot-load and snapshot-delete.
//
// Threading: engine thread.
#pragma once

#include "block/jobs/job_registry.h"
#include "qmp/commands/machine_snapshots.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"

namespace blockbed {

// Everything outlives the tables.
void register_machine_snapshot_commands(CommandTable& commands, HumanTable& human,
                                        JobRegistry& jobs, MachineSnapshots& snapshots);

}  // namespace blockbed
