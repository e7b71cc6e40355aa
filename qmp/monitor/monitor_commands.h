// The commands that concern the monitor itself.
//
// qmp_capabilities, query-version, query-commands, getfd, closefd, human-monitor-command; `help`
// and `info` of the human monitor are in every HumanTable. query-qmp-schema is elsewhere: it needs
// the schema's own tables.
#pragma once

namespace blockbed {

class CommandTable;

void register_monitor_commands(CommandTable& table);

}  // namespace blockbed
