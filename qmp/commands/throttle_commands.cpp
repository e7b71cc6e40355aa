#include "qmp/commands/throttle_commands.h"

#include <fmt/format.h>

#include "block/graph/backend.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/human_command.h"
#include "schema/block.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Expected<Backend*> find_device(const Graph& graph, const DeviceDirectory& devices,
                               const schema::BlockIOThrottle& arguments) {
  if (arguments.device.has_value() == arguments.id.has_value()) {
    return fail("Need exactly one of 'device' and 'id'");
  }
  const std::string& name = arguments.id ? *arguments.id : *arguments.device;
  Backend* backend = arguments.id ? devices.backend_of(name) : graph.find_backend(name);
  if (backend == nullptr) {
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name));
  }
  if (backend->node() == nullptr) return fail("Device has no medium");
  return backend;
}

ThrottleLimits limits_of(const schema::BlockIOThrottle& arguments) {
  const auto bucket = [](int64_t average, std::optional<int64_t> maximum,
                         std::optional<int64_t> length) {
    return ThrottleBucket{average, maximum.value_or(0), static_cast<uint64_t>(length.value_or(1))};
  };
  const schema::BlockIOThrottle& a = arguments;
  ThrottleLimits limits;
  limits.buckets = {bucket(a.bps, a.bps_max, a.bps_max_length),
                    bucket(a.bps_rd, a.bps_rd_max, a.bps_rd_max_length),
                    bucket(a.bps_wr, a.bps_wr_max, a.bps_wr_max_length),
                    bucket(a.iops, a.iops_max, a.iops_max_length),
                    bucket(a.iops_rd, a.iops_rd_max, a.iops_rd_max_length),
                    bucket(a.iops_wr, a.iops_wr_max, a.iops_wr_max_length)};
  limits.iops_size = static_cast<uint64_t>(a.iops_size.value_or(0));
  return limits;
}

Task<Expected<void>> set_io_throttle(Graph& graph, const DeviceDirectory& devices,
                                     schema::BlockIOThrottle arguments) {
  MutexGuard guard = co_await graph.lock();
  auto found = find_device(graph, devices, arguments);
  if (!found) co_return fail(std::move(found).error());
  Backend& backend = **found;
  const ThrottleLimits limits = limits_of(arguments);
  BB_CO_TRY(check_throttle_limits(limits));
  if (!limits.enabled()) {
    backend.set_throttle_group(nullptr);
    co_return Expected<void>();
  }
  std::string name;
  if (arguments.group) {
    name = *arguments.group;
  } else if (const ThrottleGroup* current = backend.throttle_group()) {
    name = current->name();
  } else {
    name = arguments.device ? *arguments.device : *arguments.id;
  }
  const auto group = graph.throttle_groups().find_or_make(name);
  backend.set_throttle_group(group);
  group->set_limits(limits);
  co_return Expected<void>();
}

Task<Expected<void>> set_io_throttle_by_hand(Graph& graph, HumanContext& context,
                                             HumanArguments arguments) {
  const std::string device = arguments.text("device");
  json::Object object;
  object.set(graph.find_backend(device) != nullptr ? "device" : "id", device);
  for (const char* const name : {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"}) {
    object.set(name, arguments.integer(name));
  }
  return context.run("block_set_io_throttle", std::move(object));
}

}  // namespace

void register_throttle_commands(CommandTable& commands, HumanTable& human, Graph& graph,
                                const DeviceDirectory& devices) {
  commands.implement<c::BlockSetIoThrottle>(
      [&graph, &devices](CommandContext&, c::BlockSetIoThrottle::Args arguments) {
        return set_io_throttle(graph, devices, std::move(arguments));
      });
  human.add({.name = "block_set_io_throttle",
             .arguments = {{"device", HumanKind::kBlockDevice},
                           {"bps", HumanKind::kInteger},
                           {"bps_rd", HumanKind::kInteger},
                           {"bps_wr", HumanKind::kInteger},
                           {"iops", HumanKind::kInteger},
                           {"iops_rd", HumanKind::kInteger},
                           {"iops_wr", HumanKind::kInteger}},
             .parameters = "device bps bps_rd bps_wr iops iops_rd iops_wr",
             .help = "change I/O throttle limits for a block drive",
             .run = [&graph](HumanContext& context, HumanArguments arguments) {
               return set_io_throttle_by_hand(graph, context, std::move(arguments));
             }});
}

}  // namespace blockbed
