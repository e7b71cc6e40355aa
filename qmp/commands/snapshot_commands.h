// blockdev-snapshot and blockdev-snapshot-sync (external snapshots), as commands and as actions of
// a transaction.
//
// Contract: a new overlay comes over a node, and all that used the node use the overlay; the node
// becomes read-only. The instant is that of the drained section which the action holds. Checks,
// their order and texts are QEMU 7.2's. Threading: engine thread.
#pragma once

#include <memory>

#include "qmp/commands/transaction.h"
#include "schema/block_graph.h"

namespace blockbed {

std::unique_ptr<Action> snapshot_action(schema::BlockdevSnapshot arguments);
std::unique_ptr<Action> snapshot_sync_action(schema::BlockdevSnapshotSync arguments);

void register_snapshot_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
