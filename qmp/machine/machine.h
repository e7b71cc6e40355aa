// The machine: devices as users of block nodes, and their places.
//
// Problem: without a guest there is still something that attaches to a drive or node with
// permissions, has a path by which clients name it, can be plugged and unplugged, and holds a
// medium. That is all there is of a machine here.
//
// Contract
//  - add_device() is -device and device_add: it checks properties in QEMU's order and words and
//    attaches the backend.
//  - Devices of a machine's own (for -drive if=ide and the like, and the default drives) are made
//    by add_board_devices() and add_virtio_drives().
//  - Paths: /machine/peripheral/ID, /machine/peripheral-anon/device[N],
//    /machine/unattached/device[N]; the qdev id that clients see is the id, or the path; for
//    virtio-blk the path with /virtio-backend.
// Threading: engine thread; the graph lock is taken inside.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "qmp/commands/device_directory.h"
#include "qmp/commands/objects.h"
#include "qmp/commands/option_text.h"
#include "qmp/commands/qom.h"
#include "qmp/machine/buses.h"
#include "qmp/machine/device_models.h"
#include "qmp/machine/drives.h"
#include "qmp/machine/processors.h"

namespace blockbed {

class CommandTable;
class HumanTable;

// The machine types that are accepted. Only the buses differ.
struct MachineType {
  std::string_view name;
  std::string_view alias;
  std::string_view description;
  DriveInterface default_interface = DriveInterface::kIde;
  std::string_view pci_bus;
  int ide_buses = 0;
  int ide_units = 0;
  bool has_floppy = false;
  bool is_default = false;
  uint64_t max_processors = 1;

  bool has_ide() const { return ide_buses > 0; }
  bool has_processors() const { return max_processors > 1; }
};
// The newest of each.
std::span<const MachineType> machine_types();
// The type of the processors that there would be.
inline constexpr std::string_view kProcessorType = "qemu64-x86_64-cpu";
// By name or alias; null when there is none.
const MachineType* find_machine_type(std::string_view name);
std::string machine_help();

class Machine final : public DeviceDirectory {
 public:
  Machine(Graph& graph, Drives& drives, ObjectStore& objects, const MachineType& type);
  ~Machine() override;

  const MachineType& type() const { return type_; }
  Drives& drives() { return drives_; }

  // Called before a device gives up its backend: who works with it must let go.
  void before_detaching(std::function<Task<void>(const Backend& backend)> hook) {
    before_detaching_ = std::move(hook);
  }

  // Before devices are made: processors have places among them.
  void set_processors(const Processors& processors);
  const Processors& processors() const { return processors_; }
  uint64_t processor_count() const { return type_.has_processors() ? processors_.count : 0; }
  std::string processor_path(uint64_t number) const;

  enum class Plugged { kAtStart, kLater };
  // `driver`, `id`, `bus` and properties, values as text.
  Task<Expected<void>> add_device(OptionText properties, Plugged when);
  // Disks and drives on IDE and floppy buses go only `with_bus`, when their controller does.
  Task<Expected<void>> remove_device(std::string id, bool with_bus = false);
  // The devices that come with the machine: for drives on its IDE and floppy interfaces, and
  // (`defaults`) the empty drives that QEMU adds by itself.
  Task<Expected<void>> add_board_devices(bool defaults);
  // After the devices that were asked for: one for each drive with if=virtio. Then a drive that no
  // interface takes is an error; `location` says which option made the drive.
  Task<Expected<void>> add_virtio_drives(std::string& location);
  Task<void> remove_all();

  // --- where a medium is, or may be (removable_media.h)
  struct MediumPlace {
    Backend* backend;
    // Not so for a disk that is part of its device.
    bool removable;
    // Null: no tray.
    bool* tray_open;
    std::string qdev;
    // Of the next medium, unless something else is said.
    NodeFlags* flags;
    // Whether the device writes is decided by the medium.
    bool writes_if_possible;
  };
  Expected<MediumPlace> medium_place_of_drive(std::string_view name);
  Expected<MediumPlace> medium_place_of_device(std::string_view id);

  // --- DeviceDirectory
  std::optional<DeviceFace> device_of(const Backend& backend) const override;
  Backend* backend_of(std::string_view qdev) const override;
  bool owns(const Backend& backend) const override { return device_of(backend).has_value(); }

  void describe(QomNode& root);

 private:
  struct Device;

  Task<Expected<Device*>> create(const DeviceModel& model, OptionText properties,
                                 std::string parent, Plugged when);
  Task<Expected<void>> add_drive_device(Drive& drive, std::string_view model, std::string parent);
  // --- buses (machine_buses.cpp)
  Expected<const Bus*> choose_bus(const DeviceModel& model,
                                  const std::optional<std::string>& name) const;
  Expected<void> choose_unit(Device& device, std::optional<uint64_t> unit) const;
  const Bus* find_bus(std::string_view name) const;
  const Bus* default_bus(std::string_view kind) const;
  const Bus* newest_bus_below(std::string_view above, std::string_view kind) const;
  Device* bus_owner(std::string_view bus) const;

  Task<Expected<void>> attach(Device& device, OptionText& properties);
  // `drive` of a device that is there: its root moves to another node.
  Task<Expected<void>> change_drive(std::string path, json::Value name);
  static std::string drive_name(const Device& device);
  // `rerror` and `werror` as they were given: they cannot be changed any more.
  static std::vector<QomProperty> error_policies(const Device& device);
  // Where the device does its I/O.
  IoContext context_of(const Device& device) const;
  Expected<void> bind_root(const Device& device);
  Expected<void> check_dataplane(const Device& device) const;
  Task<void> detach(Device& device);
  MediumPlace medium_place(Device& device);
  Device* find(std::string_view id) const;

  Graph& graph_;
  Drives& drives_;
  ObjectStore& objects_;
  const MachineType& type_;
  std::list<std::unique_ptr<Device>> devices_;
  int anonymous_ = 0;
  Processors processors_;
  uint64_t unattached_ = 0;
  BusNumbers bus_numbers_;
  std::vector<Bus> board_;
  std::function<Task<void>(const Backend&)> before_detaching_;
};

// Values of device_add and of -device with JSON as the text that -device would have; QEMU takes
// them just as loosely.
Expected<OptionText> device_properties(const json::Object& arguments);

// device_add, device_del, drive_add, drive_del.
void register_machine_commands(CommandTable& commands, HumanTable& human, Machine& machine,
                               Graph& graph, class ExportRegistry& exports);
// query-machines, query-cpus-fast, device-list-properties and the like: what management software
// asks before it starts a guest.
void register_machine_queries(CommandTable& commands, const Machine& machine);
}  // namespace blockbed
