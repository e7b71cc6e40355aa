// Which bus a device sits on, and where on it.
#include <fmt/format.h>

#include <algorithm>
#include <ranges>

#include "qmp/machine/device.h"

namespace blockbed {

Machine::Device* Machine::bus_owner(std::string_view bus) const {
  const auto found = std::ranges::find_if(devices_, [&](const auto& device) {
    return std::ranges::find(device->buses, bus, &Bus::name) != device->buses.end();
  });
  return found == devices_.end() ? nullptr : found->get();
}

const Bus* Machine::find_bus(std::string_view name) const {
  const Device* owner = bus_owner(name);
  const std::vector<Bus>& buses = owner == nullptr ? board_ : owner->buses;
  const auto found = std::ranges::find(buses, name, &Bus::name);
  return found == buses.end() ? nullptr : &*found;
}

// The controllers on a bus, the newest first, and what is behind them before the next.
const Bus* Machine::newest_bus_below(std::string_view above, std::string_view kind) const {
  for (const auto& device : std::views::reverse(devices_)) {
    if (device->bus != above) continue;
    for (const Bus& bus : std::views::reverse(device->buses)) {
      if (bus.kind() == kind) return &bus;
      if (const Bus* found = newest_bus_below(bus.name, kind)) return found;
    }
  }
  return nullptr;
}

// Where QEMU looks: the root bus, what the user has put on it, and what was there before.
const Bus* Machine::default_bus(std::string_view kind) const {
  if (board_.empty()) return nullptr;
  const Bus& root = board_.front();
  if (root.kind() == kind) return &root;
  if (const Bus* found = newest_bus_below(root.name, kind)) return found;
  for (const Bus& bus : std::views::reverse(board_)) {
    if (bus.kind() == kind) return &bus;
    if (const Bus* found = newest_bus_below(bus.name, kind)) return found;
  }
  return nullptr;
}

Expected<const Bus*> Machine::choose_bus(const DeviceModel& model,
                                         const std::optional<std::string>& name) const {
  if (!name) {
    if (const Bus* bus = default_bus(model.bus)) return bus;
    return fail(fmt::format("No '{}' bus found for device '{}'", model.bus, model.name));
  }
  const Bus* bus = find_bus(*name);
  if (bus == nullptr) return fail(fmt::format("Bus '{}' not found", *name));
  if (bus->kind() != model.bus)
    return fail(fmt::format("Device '{}' can't go on {} bus", model.name, bus->type));
  return bus;
}

Expected<void> Machine::choose_unit(Device& device, std::optional<uint64_t> unit) const {
  const bool is_floppy = device.model->kind == ModelKind::kFloppy;
  const bool is_ide = device.model->bus == "IDE";
  if (!is_floppy && !is_ide) return {};
  const auto in_use = [&](uint64_t number) {
    return std::ranges::any_of(devices_, [&](const auto& other) {
      return other->bus == device.bus && static_cast<uint64_t>(other->unit) == number;
    });
  };
  const auto units = static_cast<uint64_t>(find_bus(device.bus)->units);
  uint64_t place = 0;
  if (unit) {
    place = *unit;
  } else if (is_ide) {
    // The second place is tried whether it is free or not.
    place = in_use(0) ? 1 : 0;
  } else {
    while (place < units && in_use(place)) ++place;
  }
  if (place >= units) {
    return fail(fmt::format("Can't create {} unit {}, bus supports only {} units",
                            is_floppy ? "floppy" : "IDE", place, units));
  }
  if (in_use(place))
    return fail(fmt::format("{} unit {} is in use", is_floppy ? "Floppy" : "IDE", place));
  device.unit = static_cast<int>(place);
  return {};
}

}  // namespace blockbed
