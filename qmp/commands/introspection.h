// query-qmp-schema.
//
// Contract: describes the commands that have a handler, and nothing else. The table is the one that
// the command is registered in. Threading: engine thread.
#pragma once

#include "qmp/monitor/command_table.h"

namespace blockbed {

void register_introspection_command(CommandTable& commands);

}  // namespace blockbed
