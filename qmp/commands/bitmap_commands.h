// block-dirty-bitmap-*, as commands and as actions of a transaction, and the digest for tests.
//
// Contract: what an action does is in force when it is prepared, so that later actions see it, and
// is undone when the transaction is aborted. A bitmap that is kept in an image is removed from
// there by prepare, since commit cannot fail; an abort leaves it in memory, to be stored again. In
// a transaction no request comes between two of them; a command waits for none, and a write in
// flight is marked when it ends. Checks, their order and texts are QEMU 7.2's. Threading: engine
// thread.
#pragma once

#include <memory>

#include "qmp/commands/transaction.h"
#include "schema/block_graph.h"

namespace blockbed {

std::unique_ptr<Action> bitmap_add_action(schema::BlockDirtyBitmapAdd arguments);
std::unique_ptr<Action> bitmap_remove_action(schema::BlockDirtyBitmap arguments);
std::unique_ptr<Action> bitmap_clear_action(schema::BlockDirtyBitmap arguments);
std::unique_ptr<Action> bitmap_enable_action(schema::BlockDirtyBitmap arguments, bool enabled);
std::unique_ptr<Action> bitmap_merge_action(schema::BlockDirtyBitmapMerge arguments);

void register_bitmap_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs);

}  // namespace blockbed
