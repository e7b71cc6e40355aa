#include "qmp/monitor/monitor_commands.h"

#include <algorithm>
#include <string>
#include <utility>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/monitor.h"
#include "qmp/monitor/qmp_session.h"
#include "schema/control.h"
#include "schema/misc.h"

namespace blockbed {
namespace {

namespace commands = schema::commands;

Expected<void> qmp_capabilities(CommandContext& context, commands::QmpCapabilities::Args args) {
  const bool oob = args.enable && std::ranges::count(*args.enable, schema::QMPCapability::kOob) > 0;
  QmpSession* const session = context.session();
  if (session == nullptr) return {};
  if (session->negotiated()) {
    return fail(ErrorClass::kCommandNotFound,
                "Capabilities negotiation is already complete, command ignored");
  }
  session->complete_negotiation(oob);
  return {};
}

Expected<schema::VersionInfo> query_version(CommandContext& context, schema::Nothing) {
  const MonitorOptions& options = context.monitor().options();
  schema::VersionInfo version;
  version.qemu = {options.major, options.minor, options.micro};
  version.package = options.package;
  return version;
}

Expected<std::vector<schema::CommandInfo>> query_commands(CommandContext& context,
                                                          schema::Nothing) {
  std::vector<schema::CommandInfo> list;
  for (const std::string_view name : context.monitor().commands().implemented()) {
    list.push_back({std::string(name)});
  }
  return list;
}

Expected<void> getfd(CommandContext& context, commands::Getfd::Args args) {
  DescriptorBag* const bag = context.received_descriptors();
  auto descriptor = bag == nullptr ? std::nullopt : bag->take();
  if (!descriptor) return fail("No file descriptor supplied via SCM_RIGHTS");
  return context.monitor().descriptors().add(args.fdname, *std::move(descriptor));
}

Expected<void> closefd(CommandContext& context, commands::Closefd::Args args) {
  return context.monitor().descriptors().close(args.fdname);
}

Task<Expected<std::string>> human_monitor_command(CommandContext& context,
                                                  commands::HumanMonitorCommand::Args args) {
  // There is one processor as far as clients can tell.
  if (args.cpu_index.value_or(0) != 0) {
    co_return fail("Parameter 'cpu-index' expects a CPU number");
  }
  std::string answer;
  HumanContext human(context.monitor(), answer);
  co_await context.monitor().human().execute(human, std::move(args.command_line));
  co_return to_crlf(answer);
}

}  // namespace

void register_monitor_commands(CommandTable& table) {
  table.implement<commands::QmpCapabilities>(qmp_capabilities);
  table.implement<commands::QueryVersion>(query_version);
  table.implement<commands::QueryCommands>(query_commands);
  table.implement<commands::Getfd>(getfd);
  table.implement<commands::Closefd>(closefd);
  table.implement<commands::HumanMonitorCommand>(human_monitor_command);
}

}  // namespace blockbed
