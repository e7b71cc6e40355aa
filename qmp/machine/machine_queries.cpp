// What clients ask about machines, processors and devices before they start a guest.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "qmp/machine/device_models.h"
#include "qmp/machine/machine.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "schema/device.h"
#include "schema/machine.h"
#include "schema/migration.h"
#include "schema/misc.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

schema::MachineInfo info_of(const MachineType& type) {
  schema::MachineInfo info;
  info.name = type.name;
  if (!type.alias.empty()) info.alias = std::string(type.alias);
  if (type.is_default) info.is_default = true;
  info.cpu_max = static_cast<int64_t>(type.max_processors);
  info.hotpluggable_cpus = type.has_processors();
  info.numa_mem_supported = false;
  info.deprecated = false;
  if (type.has_processors()) info.default_cpu_type = std::string(kProcessorType);
  info.default_ram_id = type.has_processors() ? "pc.ram" : "ram";
  return info;
}

schema::CpuInstanceProperties place_of(const Processors& processors, uint64_t number) {
  schema::CpuInstanceProperties place;
  place.thread_id = static_cast<int64_t>(number % processors.threads);
  place.core_id = static_cast<int64_t>(number / processors.threads % processors.cores);
  const uint64_t die = number / (processors.threads * processors.cores);
  if (processors.dies > 1) place.die_id = static_cast<int64_t>(die % processors.dies);
  place.socket_id = static_cast<int64_t>(die / processors.dies);
  return place;
}

std::vector<schema::CpuInfoFast> running(const Machine& machine) {
  std::vector<schema::CpuInfoFast> infos;
  for (uint64_t number = 0; number < machine.processor_count(); ++number) {
    schema::CpuInfoFast info;
    info.cpu_index = static_cast<int64_t>(number);
    info.qom_path = machine.processor_path(number);
    // No thread runs it: the process itself, which may be moved into any group.
    info.thread_id = ::getpid();
    info.props = place_of(machine.processors(), number);
    info.target = schema::SysEmuTarget::kX86_64;
    infos.push_back(std::move(info));
  }
  return infos;
}

std::vector<schema::HotpluggableCPU> pluggable(const Machine& machine) {
  std::vector<schema::HotpluggableCPU> infos;
  // The last one first, as QEMU has them.
  for (uint64_t number = machine.processors().max; number-- > 0;) {
    schema::HotpluggableCPU info;
    info.type = kProcessorType;
    info.vcpus_count = 1;
    info.props = place_of(machine.processors(), number);
    if (number < machine.processor_count()) info.qom_path = machine.processor_path(number);
    infos.push_back(std::move(info));
  }
  return infos;
}

schema::CpuDefinitionInfo processor_model() {
  schema::CpuDefinitionInfo info;
  info.name = "qemu64";
  info.typename_ = kProcessorType;
  info.migration_safe = true;
  info.static_ = false;
  info.deprecated = false;
  info.unavailable_features.emplace();
  return info;
}

Expected<std::vector<schema::ObjectPropertyInfo>> device_properties_of(std::string_view name) {
  const auto models = device_models();
  const auto model = std::ranges::find(models, name, &DeviceModel::name);
  if (model == models.end()) {
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name));
  }
  std::vector<schema::ObjectPropertyInfo> infos;
  for (const auto& [property, type] : list_device_properties(*model)) {
    schema::ObjectPropertyInfo info;
    info.name = property;
    info.type = type;
    infos.push_back(std::move(info));
  }
  return infos;
}

// There is no migration, but clients set capabilities before they do anything else.
using Capabilities = std::vector<bool>;

}  // namespace

void register_machine_queries(CommandTable& commands, const Machine& machine) {
  commands.implement<c::QueryMachines>(
      [](CommandContext&, c::QueryMachines::Args) -> Expected<std::vector<schema::MachineInfo>> {
        std::vector<schema::MachineInfo> infos;
        for (const MachineType& type : machine_types()) infos.push_back(info_of(type));
        return infos;
      });
  commands.implement<c::QueryCurrentMachine>(
      [&machine](CommandContext&,
                 c::QueryCurrentMachine::Args) -> Expected<schema::CurrentMachineParams> {
        schema::CurrentMachineParams parameters;
        parameters.wakeup_suspend_support = machine.type().has_processors();
        return parameters;
      });
  commands.implement<c::QueryCpusFast>(
      [&machine](CommandContext&,
                 c::QueryCpusFast::Args) -> Expected<std::vector<schema::CpuInfoFast>> {
        return running(machine);
      });
  commands.implement<c::QueryHotpluggableCpus>(
      [&machine](CommandContext&,
                 c::QueryHotpluggableCpus::Args) -> Expected<std::vector<schema::HotpluggableCPU>> {
        if (!machine.type().has_processors())
          return fail("The feature 'query-hotpluggable-cpus' is not enabled");
        return pluggable(machine);
      });
  commands.implement<c::QueryCpuDefinitions>(
      [](CommandContext&,
         c::QueryCpuDefinitions::Args) -> Expected<std::vector<schema::CpuDefinitionInfo>> {
        return std::vector{processor_model()};
      });
  commands.implement<c::DeviceListProperties>(
      [](CommandContext&, c::DeviceListProperties::Args arguments) {
        return device_properties_of(arguments.typename_);
      });
  commands.implement<c::QueryBalloon>(
      [](CommandContext&, c::QueryBalloon::Args) -> Expected<schema::BalloonInfo> {
        return fail(ErrorClass::kDeviceNotActive, "No balloon device has been activated");
      });
  commands.implement<c::Balloon>([](CommandContext&, c::Balloon::Args) -> Expected<void> {
    return fail(ErrorClass::kDeviceNotActive, "No balloon device has been activated");
  });
  // Options are not described by tables of parameters here: there is nothing to list.
  commands.implement<c::QueryCommandLineOptions>(
      [](CommandContext&, c::QueryCommandLineOptions::Args arguments)
          -> Expected<std::vector<schema::CommandLineOptionInfo>> {
        if (arguments.option)
          return fail(fmt::format("invalid option name: {}", *arguments.option));
        return std::vector<schema::CommandLineOptionInfo>();
      });

  const auto capabilities =
      std::make_shared<Capabilities>(schema::names(schema::MigrationCapability{}).size());
  commands.implement<c::QueryMigrateCapabilities>(
      [capabilities](CommandContext&, c::QueryMigrateCapabilities::Args)
          -> Expected<std::vector<schema::MigrationCapabilityStatus>> {
        std::vector<schema::MigrationCapabilityStatus> infos;
        for (std::size_t i = 0; i < capabilities->size(); ++i) {
          schema::MigrationCapabilityStatus info;
          info.capability = static_cast<schema::MigrationCapability>(i);
          info.state = (*capabilities)[i];
          infos.push_back(std::move(info));
        }
        return infos;
      });
  commands.implement<c::MigrateSetCapabilities>(
      [capabilities](CommandContext&, c::MigrateSetCapabilities::Args arguments) -> Expected<void> {
        for (const schema::MigrationCapabilityStatus& wanted : arguments.capabilities)
          (*capabilities)[static_cast<std::size_t>(wanted.capability)] = wanted.state;
        return {};
      });
}

}  // namespace blockbed
