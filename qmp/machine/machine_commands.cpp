#include <fmt/format.h>

#include "block/exports/export_registry.h"
#include "block/jobs/block_job.h"
#include "qmp/commands/block_nodes.h"
#include "qmp/commands/option_text.h"
#include "qmp/machine/machine.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "schema/device.h"

namespace blockbed {

namespace {

namespace c = schema::commands;
using Human = Task<Expected<void>>;

Human drive_add(HumanContext& context, Machine& machine, Graph& graph, HumanArguments arguments) {
  if (arguments.flag("n")) {
    auto options = OptionText::parse(arguments.text("opts"));
    if (!options) co_return fail(std::move(options).error());
    auto tree = options->tree();
    if (!tree) co_return fail(std::move(tree).error());
    // A file without a driver is a node that is there.
    const json::Value* file = tree->find("file");
    if (!tree->contains("driver") && file != nullptr && file->is_string()) {
      const std::string& name = file->as_string();
      if (auto found = graph.find_device_or_node(name, name); !found) {
        context.print(found.error());
        co_return Expected<void>();
      }
    }
    if (!tree->contains("node-name")) {
      context.print("'node-name' needs to be specified\n");
      co_return Expected<void>();
    }
    if (auto added = co_await add_blockdev(graph, std::move(*tree), true, true); !added) {
      context.print(added.error());
    }
    co_return Expected<void>();
  }
  auto options = OptionText::parse(arguments.text("opts"));
  if (!options) {
    context.print(options.error());
    co_return Expected<void>();
  }
  std::vector<std::string> warnings;
  auto drive = co_await machine.drives().add(std::move(*options), machine.type().default_interface,
                                             "", warnings);
  for (const std::string& warning : warnings) context.print("warning: " + warning + "\n");
  if (!drive) {
    context.print(drive.error());
  } else if ((*drive)->interface != DriveInterface::kNone) {
    context.print(
        fmt::format("Can't hot-add drive to type {}\n", static_cast<int>((*drive)->interface)));
    co_await machine.drives().remove(**drive);
  } else {
    context.print("OK\n");
  }
  co_return Expected<void>();
}

Human drive_del(HumanContext& context, Machine& machine, Graph& graph, ExportRegistry& exports,
                std::string id) {
  if (graph.find_node(id) != nullptr) {
    if (auto deleted = co_await delete_blockdev(graph, id); !deleted) {
      context.print(deleted.error());
    }
    co_return Expected<void>();
  }
  Drive* drive = machine.drives().find(id);
  if (drive == nullptr) {
    context.print(fmt::format("Device '{}' not found\n", id));
    co_return Expected<void>();
  }
  if (Node* node = drive->backend->node()) {
    for (const Edge* edge : node->parents()) {
      const auto* job = dynamic_cast<const BlockJob*>(&edge->parent());
      if (job == nullptr) continue;
      context.print(fmt::format("Node '{}' is busy: block device is in use by block job: {}\n",
                                drive->name(), job->type()));
      co_return Expected<void>();
    }
    co_await exports.medium_removed(*drive->backend);
  }
  if (!drive->claimed) {
    co_await machine.drives().remove(*drive);
    co_return Expected<void>();
  }
  // A device holds on to the drive: it loses its medium and its name, and the rest goes with the
  // device.
  MutexGuard guard = co_await graph.lock();
  co_await drive->backend->remove();
  drive->backend->forget_name();
  drive->backend->on_read_error = OnError::kReport;
  drive->backend->on_write_error = OnError::kReport;
  co_await graph.close_unreferenced();
  co_return Expected<void>();
}

}  // namespace

Expected<OptionText> device_properties(const json::Object& arguments) {
  OptionText properties;
  for (const auto& [key, value] : arguments) {
    if (value.is_string()) {
      properties.set(key, value.as_string());
    } else if (value.is_bool()) {
      properties.set(key, value.as_bool() ? "on" : "off");
    } else if (value.is_int64()) {
      properties.set(key, fmt::format("{}", value.as_int64()));
    } else if (value.is_integer()) {
      properties.set(key, fmt::format("{}", value.as_uint64()));
    } else {
      return fail(fmt::format("Invalid parameter type for '{}', expected: string", key));
    }
  }
  return properties;
}

void register_machine_commands(CommandTable& commands, HumanTable& human, Machine& machine,
                               Graph& graph, ExportRegistry& exports) {
  commands.implement<c::DeviceAdd>(
      [&machine](CommandContext&, c::DeviceAdd::Args arguments) -> Human {
        if (arguments.id && !is_well_formed_id(*arguments.id))
          co_return fail("Parameter 'id' expects an identifier");
        auto properties = device_properties(arguments.rest);
        if (!properties) co_return fail(std::move(properties).error());
        properties->set("driver", std::move(arguments.driver));
        if (arguments.bus) properties->set("bus", std::move(*arguments.bus));
        if (arguments.id) properties->set("id", std::move(*arguments.id));
        co_return co_await machine.add_device(std::move(*properties), Machine::Plugged::kLater);
      });
  commands.implement<c::DeviceDel>([&machine](CommandContext&, c::DeviceDel::Args arguments) {
    return machine.remove_device(std::move(arguments.id));
  });
  human.add({.name = "device_add",
             .arguments = {{"device", HumanKind::kString}},
             .parameters = "driver[,prop=value][,...]",
             .help = "add a device",
             .run = [&machine](HumanContext&, HumanArguments arguments) -> Human {
               auto properties = OptionText::parse(arguments.text("device"), "driver");
               if (!properties) co_return fail(std::move(properties).error());
               co_return co_await machine.add_device(std::move(*properties),
                                                     Machine::Plugged::kLater);
             }});
  human.add({.name = "device_del",
             .arguments = {{"id", HumanKind::kString}},
             .parameters = "device",
             .help = "remove a device",
             .run = [&machine](HumanContext&, HumanArguments arguments) -> Human {
               co_return co_await machine.remove_device(arguments.text("id"));
             }});
  human.add({.name = "drive_add",
             .arguments = {{"n", HumanKind::kFlag},
                           {"pci_addr", HumanKind::kString},
                           {"opts", HumanKind::kString}},
             .parameters =
                 "[-n] "
                 "[[<domain>:]<bus>:]<slot>\n[file=file][,if=type][,bus=n]\n[,unit=m][,media=d][,"
                 "index=i]\n"
                 "[,snapshot=on|off][,cache=on|off]\n[,readonly=on|off][,copy-on-read=on|off]",
             .help = "add a drive",
             .run = [&machine, &graph](HumanContext& context, HumanArguments arguments) -> Human {
               co_return co_await drive_add(context, machine, graph, std::move(arguments));
             }});
  human.add({.name = "drive_del",
             .arguments = {{"id", HumanKind::kBlockDevice}},
             .parameters = "device",
             .help = "remove a drive or node",
             .run = [&machine, &graph, &exports](HumanContext& context,
                                                 HumanArguments arguments) -> Human {
               co_return co_await drive_del(context, machine, graph, exports, arguments.text("id"));
             }});
}

}  // namespace blockbed
