// block_set_io_throttle, of both monitors: the limits of a device.
//
// Contract: a device with limits is in a throttle group, by default one of its own name; its limits
// are the group's. All zero takes it out of the group. Errors: texts of QEMU 7.2. Threading: engine
// thread; the graph lock is taken inside.
#pragma once

#include "block/graph/graph.h"
#include "qmp/commands/device_directory.h"

namespace blockbed {

class CommandTable;
class HumanTable;

void register_throttle_commands(CommandTable& commands, HumanTable& human, Graph& graph,
                                const DeviceDirectory& devices);

}  // namespace blockbed
