#include "qmp/server/register_jobs.h"

#include "qmp/commands/backup_commands.h"
#include "qmp/commands/bitmap_commands.h"
#include "qmp/commands/commit_commands.h"
#include "qmp/commands/create_commands.h"
#include "qmp/commands/internal_snapshot_commands.h"
#include "qmp/commands/job_commands.h"
#include "qmp/commands/mirror_commands.h"
#include "qmp/commands/snapshot_commands.h"
#include "qmp/commands/stream_commands.h"
#include "qmp/commands/transaction.h"

namespace blockbed::server {

void register_job_families(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  register_job_commands(commands, jobs);
  register_backup_commands(commands, graph, jobs);
  register_bitmap_commands(commands, graph, jobs);
  register_commit_commands(commands, graph, jobs);
  register_mirror_commands(commands, graph, jobs);
  register_stream_commands(commands, graph, jobs);
  register_create_commands(commands, graph, jobs);
  register_snapshot_commands(commands, graph, jobs);
  register_internal_snapshot_commands(commands, graph, jobs);
  register_transaction_command(commands, graph, jobs);
}

}  // namespace blockbed::server
