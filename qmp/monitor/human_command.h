// Commands of the human monitor: a table of names, arguments and help, used by sessions of people
// and by the QMP command human-monitor-command.
//
// How a command is registered:
//
// table.add({.name = "drive_del", .arguments = {{"id", HumanKind::kBlockDevice}}, .parameters =
// "device",
//                .help = "remove host block device",
//                .run = [&](HumanContext& context, HumanArguments arguments) ->
//                Task<Expected<void>> { ... }});
//
// Contract
//  - A name may have aliases: "stop|s". Names of `info` commands are registered with add_info().
//  - The line is cut into words by the kinds of the arguments, in order; texts of complaints are
//    QEMU's. Flags are written before or between the other arguments.
//  - A handler prints to its context; lines end with '\n', the session makes CR LF of it. A failure
//    that it returns is shown as "Error: TEXT\n"; where QEMU shows a failure without "Error: ", the
//    handler prints it and succeeds.
// Threading: engine thread. Human commands take their turn with all other in-band commands
// (dispatcher.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Monitor;

enum class HumanKind {
  kFlag,         // -c
  kString,       // a word or a quoted string
  kBlockDevice,  // the same, another complaint
  kFilename,
  kRest,     // all that is left of the line
  kInteger,  // decimal, 0x or 0; sums and products without spaces
  kSize,     // with a suffix (B, K, M, G, T, P, E), MiB when there is none
  kOnOff,
};

struct HumanArgument {
  // The name under which the handler finds it; of a flag its letter.
  std::string_view name;
  HumanKind kind = HumanKind::kString;
  bool optional = false;
};

// What was typed, by name. A flag that was not given and an optional argument that was left out are
// absent.
class HumanArguments {
 public:
  using Value = std::variant<bool, std::string, int64_t, uint64_t>;

  void set(std::string_view name, Value value) { values_.emplace_back(name, std::move(value)); }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool flag(std::string_view name) const { return has(name); }
  // Empty when absent.
  std::string text(std::string_view name) const;
  int64_t integer(std::string_view name, int64_t otherwise = 0) const;
  uint64_t size(std::string_view name, uint64_t otherwise = 0) const;
  bool on_off(std::string_view name, bool otherwise = false) const;

 private:
  const Value* find(std::string_view name) const;

  std::vector<std::pair<std::string, Value>> values_;
};

// Who asked, and where the answer goes.
class HumanContext {
 public:
  HumanContext(Monitor& monitor, std::string& output) : monitor_(monitor), output_(output) {}

  Monitor& monitor() const { return monitor_; }
  void print(std::string_view text) { output_ += text; }

 private:
  Monitor& monitor_;
  std::string& output_;
};

struct HumanCommand {
  std::string_view name;
  std::vector<HumanArgument> arguments;
  // As `help` shows them: "[-n] [-v] [device]".
  std::string_view parameters;
  std::string_view help;
  std::function<Task<Expected<void>>(HumanContext&, HumanArguments)> run;
};

class HumanTable {
 public:
  HumanTable();

  void add(HumanCommand command) { commands_.push_back(std::move(command)); }
  void add_info(HumanCommand command) { info_.push_back(std::move(command)); }

  // Executes one line and leaves in `output` what the command said.
  Task<void> execute(Monitor& monitor, std::string line, std::string& output) const;

  // Names that begin with the text, for completion; with "info " those of its commands.
  std::vector<std::string> complete(std::string_view begun) const;

 private:
  void help(std::string_view about, std::string& output) const;

  std::vector<HumanCommand> commands_;
  std::vector<HumanCommand> info_;
};

}  // namespace blockbed
