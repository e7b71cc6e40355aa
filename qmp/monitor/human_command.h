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
//    that it returns is shown as "Error: TEXT\n" and its hint; where QEMU shows a failure without
//    "Error: ", the handler prints it and succeeds.
// Threading: engine thread. Human commands take their turn with all other in-band commands
// (dispatcher.h).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/task.h"
#include "qmp/monitor/human_arguments.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

class Monitor;

// Who asked, and where the answer goes.
class HumanContext {
 public:
  HumanContext(Monitor& monitor, std::string& output) : monitor_(monitor), output_(output) {}

  Monitor& monitor() const { return monitor_; }
  void print(std::string_view text) { output_ += text; }
  // A failure, and its hint on a line of its own.
  void print(const Error& error);
  // What a QMP command answers; run() for who needs to know no more than whether it failed.
  Task<Expected<json::Value>> execute(std::string command, json::Object arguments = {});
  Task<Expected<void>> run(std::string command, json::Object arguments = {});
  // No prompt after this command and no further one is read: for `quit`.
  void end_session() { ends_session_ = true; }
  bool ends_session() const { return ends_session_; }

 private:
  Monitor& monitor_;
  std::string& output_;
  bool ends_session_ = false;
};

// What a terminal needs: every '\n' becomes CR LF.
std::string to_crlf(std::string_view text);

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

  void add(HumanCommand command);
  void add_info(HumanCommand command);

  // Executes one line; what there is to say is printed to the context.
  Task<void> execute(HumanContext& context, std::string line) const;

  // Names that begin with the text, for completion; with "info " those of its commands.
  std::vector<std::string> complete(std::string_view begun) const;

 private:
  void help(HumanContext& context, std::string_view about) const;

  std::vector<HumanCommand> commands_;
  std::vector<HumanCommand> info_;
};

}  // namespace blockbed
