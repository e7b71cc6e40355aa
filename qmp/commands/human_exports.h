// The human monitor's commands for the NBD server.
//
// Contract: each is the QMP command of the same name, with an address as people write it: unix:PATH
// or HOST:PORT. `nbd_server_start -a` exports every device that has a medium, or nothing. Errors:
// QEMU's texts. Threading: engine thread.
#pragma once

#include "qmp/monitor/human_command.h"

namespace blockbed {

void register_human_export_commands(HumanTable& human);

}  // namespace blockbed
