// A real monitor on standard input and output, with a handful of commands that do what QEMU's do:
// monitor_oracle.py lays it beside QEMU.
//
//     monitor_driver control|pretty|human
#include <cstring>
#include <string>

#include "block/runtime/production_env.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "qmp/monitor/monitor_commands.h"
#include "schema/control.h"
#include "schema/misc.h"
#include "schema/yank.h"

namespace {

using namespace blockbed;
namespace commands = schema::commands;

// As far as the monitor can tell, this is a machine.
struct Machine {
  bool running = true;
  bool quit = false;
  Event quits;
  Monitor* monitor = nullptr;

  explicit Machine(Env& env) : quits(env.executor()) {}

  void set_running(bool run) {
    if (running == run) return;
    running = run;
    monitor->emit(run ? "RESUME" : "STOP", json::Value());
  }
  void end(std::string reason) {
    monitor->emit("SHUTDOWN", json::Object{{"guest", false}, {"reason", std::move(reason)}});
    quits.set();
  }
};

void add_commands(CommandTable& table, Machine& machine) {
  register_monitor_commands(table);
  table.implement<commands::Stop>([&machine](CommandContext&, schema::Nothing) -> Expected<void> {
    machine.set_running(false);
    return {};
  });
  table.implement<commands::Cont>(
      [&machine](CommandContext&, schema::Nothing) -> Task<Expected<void>> {
        machine.set_running(true);
        co_return Expected<void>();
      });
  table.implement<commands::Quit>([&machine](CommandContext&, schema::Nothing) -> Expected<void> {
    machine.end("host-qmp-quit");
    return {};
  });
  table.implement<commands::Yank>(
      [](CommandContext&, commands::Yank::Args) -> Expected<void> { return {}; });
}

void add_human_commands(HumanTable& table, Machine& machine) {
  table.add({.name = "stop|s",
             .arguments = {},
             .parameters = "",
             .help = "stop emulation",
             .run = [&machine](HumanContext&, HumanArguments) -> Task<Expected<void>> {
               machine.set_running(false);
               co_return Expected<void>();
             }});
  table.add({.name = "quit|q",
             .arguments = {},
             .parameters = "",
             .help = "quit the emulator",
             .run = [&machine](HumanContext& context, HumanArguments) -> Task<Expected<void>> {
               context.end_session();
               machine.end("host-qmp-quit");
               co_return Expected<void>();
             }});
  const std::vector<HumanArgument> drive_add = {{"n", HumanKind::kFlag}, {"pci_addr"}, {"opts"}};
  table.add({.name = "drive_add",
             .arguments = drive_add,
             .parameters = "[-n] [[<domain>:]<bus>:]<slot>\n"
                           "[file=file][,if=type][,bus=n]\n"
                           "[,unit=m][,media=d][,index=i]\n"
                           "[,snapshot=on|off][,cache=on|off]\n"
                           "[,readonly=on|off][,copy-on-read=on|off]",
             .help = "add drive to PCI storage controller",
             .run = [](HumanContext&, HumanArguments) -> Task<Expected<void>> {
               co_return fail("not here");
             }});
  const std::vector<HumanArgument> resize = {{"device", HumanKind::kBlockDevice},
                                             {"size", HumanKind::kSize}};
  table.add({.name = "block_resize",
             .arguments = resize,
             .parameters = "device size",
             .help = "resize a block image",
             .run = [](HumanContext&, HumanArguments arguments) -> Task<Expected<void>> {
               co_return fail("Cannot find device='" + arguments.text("device") +
                              "' nor node-name=''");
             }});
  const std::vector<HumanArgument> throttle = {
      {"device", HumanKind::kBlockDevice}, {"bps", HumanKind::kInteger},
      {"bps_rd", HumanKind::kInteger},     {"bps_wr", HumanKind::kInteger},
      {"iops", HumanKind::kInteger},       {"iops_rd", HumanKind::kInteger},
      {"iops_wr", HumanKind::kInteger}};
  table.add({.name = "block_set_io_throttle",
             .arguments = throttle,
             .parameters = "device bps bps_rd bps_wr iops iops_rd iops_wr",
             .help = "change I/O throttle limits for a block drive",
             .run = [](HumanContext&, HumanArguments arguments) -> Task<Expected<void>> {
               co_return fail("Device '" + arguments.text("device") + "' not found");
             }});
  table.add_info({.name = "name",
                  .arguments = {},
                  .parameters = "",
                  .help = "show the current VM name",
                  .run = [](HumanContext&, HumanArguments) -> Task<Expected<void>> {
                    co_return Expected<void>();
                  }});
  const std::vector<HumanArgument> block = {
      {"n", HumanKind::kFlag}, {"v", HumanKind::kFlag}, {"device", HumanKind::kBlockDevice, true}};
  table.add_info({.name = "block",
                  .arguments = block,
                  .parameters = "[-n] [-v] [device]",
                  .help = "show info of one block device or all block devices (-n: show named "
                          "nodes; -v: show details)",
                  .run = [](HumanContext&, HumanArguments) -> Task<Expected<void>> {
                    co_return Expected<void>();
                  }});
}

Task<int> serve(Env& env, MonitorMode mode) {
  CommandTable table(Manner::kSystem);
  HumanTable human;
  Machine machine(env);
  Monitor monitor(env, table, human, {});
  machine.monitor = &monitor;
  add_commands(table, machine);
  add_human_commands(human, machine);
  monitor.start();
  auto endpoint = std::make_unique<Endpoint>(env, EndpointOptions());
  if (!co_await endpoint->open()) co_return 1;
  monitor.serve(std::move(endpoint), mode);
  co_await machine.quits.wait();
  co_await monitor.stop();
  co_return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "control";
  ProductionEnv env;
  return env.run_until_complete(serve(env, std::strcmp(mode, "human") == 0 ? MonitorMode::kHuman
                                           : std::strcmp(mode, "pretty") == 0
                                               ? MonitorMode::kControlPretty
                                               : MonitorMode::kControl));
}
