// blockdev-add, blockdev-del and block_resize.
//
// Contract: each holds the graph lock while it works; blockdev-del returns when the image is closed
// and its locks are gone. Texts are QEMU 7.2's. Threading: engine thread.
#pragma once

#include "block/graph/graph.h"
#include "qmp/monitor/command_table.h"
#include "schema/blockdev_options.h"

namespace blockbed {

// What blockdev-add and --blockdev do: open, and give the node to the monitor. `keyval`: values are
// strings, as a command line gives them; `keep_text`: and names made of them show them so
// (drive_add).
Task<Expected<void>> add_blockdev(Graph& graph, json::Object options, bool keyval,
                                  bool keep_text = false);
Task<Expected<void>> delete_blockdev(Graph& graph, std::string node_name);

void register_block_node_commands(CommandTable& commands, Graph& graph);

}  // namespace blockbed
