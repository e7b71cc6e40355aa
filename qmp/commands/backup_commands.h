// drive-backup and blockdev-backup, as commands and as actions of a transaction.
//
// Contract: the checks and texts of QEMU 7.2, in its order; the work is BackupJob's
// (block/jobs/backup.h). Threading: engine thread.
#pragma once

#include <memory>

#include "qmp/commands/transaction.h"
#include "schema/block_graph.h"

namespace blockbed {

std::unique_ptr<Action> drive_backup_action(schema::DriveBackup arguments);
std::unique_ptr<Action> blockdev_backup_action(schema::BlockdevBackup arguments);

void register_backup_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
