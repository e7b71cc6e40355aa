// blockdev-snapshot-internal-sync and blockdev-snapshot-delete-internal-sync: snapshots within an
// image. The first is an action of transactions too.
//
// Contract: the snapshot is of the instant of the drained section that the action holds; when the
// transaction fails it is deleted again. The guest's time in it is how long this program has run.
// Checks, their order and texts are QEMU 7.2's. Threading: engine thread.
#pragma once

#include <memory>

#include "qmp/commands/transaction.h"
#include "schema/block_event.h"

namespace blockbed {

std::unique_ptr<Action> internal_snapshot_action(schema::BlockdevSnapshotInternal arguments);

void register_internal_snapshot_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
