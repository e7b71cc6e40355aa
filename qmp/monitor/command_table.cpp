#include "qmp/monitor/command_table.h"

#include "block/runtime/assert.h"

namespace blockbed {

void CommandTable::implement_raw(std::string_view name, schema::CommandFlags flags,
                                 PlainCommand handler) {
  add(Command{name, flags, std::move(handler)});
}

void CommandTable::implement_raw(std::string_view name, schema::CommandFlags flags,
                                 CoroutineCommand handler) {
  add(Command{name, flags, std::move(handler)});
}

bool CommandTable::has(const schema::CommandFlags& flags) const {
  return manner_ == Manner::kSystem ? flags.in_system : flags.in_daemon;
}

void CommandTable::add(Command command) {
  if (!has(command.flags)) return;
  const std::string_view name = command.name;
  const bool added = commands_.emplace(name, std::move(command)).second;
  BB_ASSERT(added);
}

Command* CommandTable::find(std::string_view name) {
  const auto it = commands_.find(name);
  return it == commands_.end() ? nullptr : &it->second;
}

std::vector<std::string_view> CommandTable::implemented() const {
  std::vector<std::string_view> names;
  for (const schema::CommandEntry& info : schema::all_commands()) {
    if (commands_.contains(info.name)) names.push_back(info.name);
  }
  return names;
}

std::vector<std::string_view> CommandTable::without_handler() const {
  std::vector<std::string_view> names;
  for (const schema::CommandEntry& info : schema::all_commands()) {
    if (has(info.flags) && !commands_.contains(info.name)) names.push_back(info.name);
  }
  return names;
}

Error CommandTable::why_not(std::string_view name) const {
  const schema::CommandEntry* info = schema::find_command(name);
  if (info != nullptr && has(info->flags)) {
    return Error("The command " + std::string(name) + " is not implemented by Blockbed");
  }
  return Error(ErrorClass::kCommandNotFound,
               "The command " + std::string(name) + " has not been found");
}

}  // namespace blockbed
