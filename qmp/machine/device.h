// A device of the machine, as the machine's own files know it.
//
// Problem: what is asked of devices is spread over several files: plugging, buses, the object tree.
//
// Contract: the machine owns devices; nobody else sees them. Threading: engine thread.
#pragma once

#include "qmp/machine/machine.h"

namespace blockbed {

struct Machine::Device {
  const DeviceModel* model = nullptr;
  std::string id;
  std::string path;
  std::string bus;
  int unit = -1;
  // What clients see as its qdev id; of a device with a block node.
  std::string qdev;
  // The buses that it gives.
  std::vector<Bus> buses;
  IoContext iothread;
  // The root in use: the drive's, or its own.
  Backend* backend = nullptr;
  std::unique_ptr<Backend> own_backend;
  Drive* drive = nullptr;
  bool tray_open = false;
  bool locked = false;
  // Of the next medium, without a drive that says it.
  NodeFlags medium{.read_only = true};
  std::vector<OptionText::Item> properties;
};

}  // namespace blockbed
