#include "qmp/machine/buses.h"

#include <fmt/format.h>

#include <algorithm>

#include "qmp/machine/machine.h"

namespace blockbed {

namespace {

constexpr int kFloppyUnits = 2;
constexpr int kAhciPorts = 6;

struct BusKind {
  std::string_view type;
  // Of buses without another name.
  std::string_view prefix;
  bool hotplug;
  int units;
};
constexpr BusKind kPci = {"PCI", "pci", true, 0};
constexpr BusKind kPciExpress = {"PCIE", "pcie", true, 0};
constexpr BusKind kScsi = {"SCSI", "scsi", true, 0};
constexpr BusKind kSerial = {"virtio-serial-bus", "virtio-serial-bus", true, 0};
constexpr BusKind kIsa = {"ISA", "isa", false, 0};
constexpr BusKind kIde = {"IDE", "ide", false, 0};
constexpr BusKind kFloppy = {"floppy-bus", "floppy-bus", false, kFloppyUnits};
constexpr BusKind kAhci = {"IDE", "ide", false, 1};

Bus numbered(const BusKind& kind, BusNumbers& numbers) {
  return Bus{fmt::format("{}.{}", kind.prefix, numbers[kind.prefix]++), kind.type, kind.hotplug,
             kind.units};
}

const BusKind* kind_given_by(const DeviceModel& model) {
  switch (model.kind) {
    case ModelKind::kVirtioScsi:
    case ModelKind::kScsiController:
      return &kScsi;
    case ModelKind::kFloppyController:
      return &kFloppy;
    default:
      break;
  }
  if (model.name == "pci-bridge" || model.name == "pcie-pci-bridge") return &kPci;
  if (model.name == "pcie-root-port") return &kPciExpress;
  if (model.name == "ich9-ahci") return &kAhci;
  if (model.name == "virtio-serial-pci") return &kSerial;
  return nullptr;
}

}  // namespace

std::vector<Bus> board_buses(const MachineType& type, BusNumbers& numbers) {
  std::vector<Bus> buses;
  if (type.pci_bus.empty()) return buses;
  if (type.pci_bus.starts_with("pcie")) {
    buses.push_back({std::string(type.pci_bus), kPciExpress.type, /*hotplug=*/false, 0});
  } else {
    buses.push_back(numbered(kPci, numbers));
  }
  if (type.has_floppy) add_floppy_bus(buses, numbers);
  buses.push_back(numbered(kIsa, numbers));
  for (int i = 0; i < type.ide_buses; ++i) {
    buses.push_back(numbered(kIde, numbers));
    buses.back().units = type.ide_units;
  }
  return buses;
}

// Behind the ISA bus, where what the user adds is newer.
void add_floppy_bus(std::vector<Bus>& board, BusNumbers& numbers) {
  board.insert(board.begin() + 1, numbered(kFloppy, numbers));
}

std::vector<Bus> buses_of(const DeviceModel& model, const std::string& id, BusNumbers& numbers) {
  std::vector<Bus> buses;
  const BusKind* kind = kind_given_by(model);
  if (kind == nullptr) return buses;
  const int count = kind == &kAhci ? kAhciPorts : 1;
  // Behind a bridge there is one bus, with the bridge's own name.
  const bool is_bridge = kind == &kPci || kind == &kPciExpress;
  // Nobody can say the name of what is behind a root port that has none.
  if (kind == &kPciExpress && id.empty()) return buses;
  for (int i = 0; i < count; ++i) {
    if (id.empty()) {
      buses.push_back(numbered(*kind, numbers));
    } else {
      buses.push_back(
          {is_bridge ? id : fmt::format("{}.{}", id, i), kind->type, kind->hotplug, kind->units});
    }
  }
  return buses;
}

}  // namespace blockbed
