// The commands that the schema knows, for dispatch and for query-commands.
//
// Contract: all_commands() is one constant table in the order of the schema, with nothing to set
// up; find_command is a search in an index sorted at build time. The types of a command's arguments
// and result are in the generated headers, in namespace commands: commands::BlockdevAdd::Args,
// ::Result, ::kName, ::kFlags. Threading: constants.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace blockbed::schema {

struct CommandFlags {
  // May be executed out of band (`exec-oob`).
  bool oob = false;
  // Allowed before the machine is built (`-preconfig`).
  bool preconfig = false;
  // Takes arguments that the schema does not name (device_add).
  bool open = false;
  // Which program has it: qemu-system-*, qemu-storage-daemon.
  bool in_system = false;
  bool in_daemon = false;
  // Blockbed's own, unknown to QEMU 7.2.
  bool extension = false;
};

struct CommandEntry {
  std::string_view name;
  CommandFlags flags;
};

std::span<const CommandEntry> all_commands();
// Null when the schema has no command of that name.
const CommandEntry* find_command(std::string_view name);

// The names of all events, in the order of the schema.
std::span<const std::string_view> all_events();

}  // namespace blockbed::schema
