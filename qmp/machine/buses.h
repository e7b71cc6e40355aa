// The buses that devices sit on: which there are, what they are called, who can come and go.
//
// Problem: clients name the bus of a device or leave it to QEMU to find one, and a bus decides
// whether a device can be plugged into a machine that runs.
//
// Contract: constants of a machine type, and what a device model brings along. Where a device
// without a bus goes is the machine's to find (machine.h). Threading: constants.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/machine/device_models.h"

namespace blockbed {

struct MachineType;

struct Bus {
  std::string name;
  // As messages call it.
  std::string_view type;
  // Devices that may come and go while the machine runs.
  bool hotplug = false;
  // Disks or floppy drives that it has room for.
  int units = 0;

  // What devices ask for: PCI Express is a kind of PCI.
  std::string_view kind() const { return type == "PCIE" ? "PCI" : type; }
};

// How many buses of a type have been given a name by their number.
using BusNumbers = std::map<std::string_view, int>;

// In the order in which the board makes them.
std::vector<Bus> board_buses(const MachineType& type, BusNumbers& numbers);
void add_floppy_bus(std::vector<Bus>& board, BusNumbers& numbers);
// Of a controller or bridge.
std::vector<Bus> buses_of(const DeviceModel& model, const std::string& id, BusNumbers& numbers);

}  // namespace blockbed
