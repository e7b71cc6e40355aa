#include "qmp/machine/machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/graph_change.h"
#include "block/jobs/block_job.h"
#include "block/jobs/job_registry.h"
#include "block/runtime/event_sink.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

namespace {

constexpr MachineType kTypes[] = {
    {"pc-i440fx-7.2", "pc", "Standard PC (i440FX + PIIX, 1996)", DriveInterface::kIde, "pci.0",
     true, true, true, 255},
    {"pc-q35-7.2", "q35", "Standard PC (Q35 + ICH9, 2009)", DriveInterface::kIde, "pcie.0", true,
     false, false, 288},
    {"none", "", "empty machine", DriveInterface::kNone, "", false, false, false},
};

constexpr int kIdeUnits = 2;
constexpr int kFloppyUnits = 2;
constexpr int kIdeBuses = 2;

// What a device that reads and writes its medium lets others do.
constexpr Permissions kSharedByDevices = Permission::kConsistentRead | Permission::kWriteUnchanged;

}  // namespace

std::span<const MachineType> machine_types() { return kTypes; }

const MachineType* find_machine_type(std::string_view name) {
  const auto found = std::ranges::find_if(kTypes, [&](const MachineType& type) {
    return type.name == name || (!type.alias.empty() && type.alias == name);
  });
  if (found != std::end(kTypes)) return &*found;
  // Older versions of a type differ in nothing that is here.
  if (name.starts_with("pc-i440fx-")) return &kTypes[0];
  if (name.starts_with("pc-q35-")) return &kTypes[1];
  return nullptr;
}

std::string machine_help() {
  std::string text = "Supported machines are:\n";
  for (const MachineType& type : kTypes) {
    if (!type.alias.empty()) {
      text += fmt::format("{:<20} {} (alias of {})\n", type.alias, type.description, type.name);
    }
    text += fmt::format("{:<20} {}{}\n", type.name, type.description,
                        type.is_default ? " (default)" : "");
  }
  return text;
}

namespace {

NodeFlags read_only_medium() {
  NodeFlags flags;
  flags.read_only = true;
  return flags;
}

}  // namespace

struct Machine::Device {
  const DeviceModel* model = nullptr;
  std::string id;
  std::string path;
  std::string bus;
  int unit = -1;
  // What clients see as its qdev id; of a device with a block node.
  std::string qdev;
  // The bus that it gives.
  std::string own_bus;
  IoContext iothread;
  // The root in use: the drive's, or its own.
  Backend* backend = nullptr;
  std::unique_ptr<Backend> own_backend;
  Drive* drive = nullptr;
  bool tray_open = false;
  bool locked = false;
  // Of the next medium, without a drive that says it.
  NodeFlags medium = read_only_medium();
  std::vector<OptionText::Item> properties;
};

Machine::Machine(Graph& graph, Drives& drives, ObjectStore& objects, const MachineType& type)
    : graph_(graph), drives_(drives), objects_(objects), type_(type) {
  set_processors({});
}

Machine::~Machine() { BB_ASSERT(devices_.empty()); }

void Machine::set_processors(const Processors& processors) {
  processors_ = processors;
  unattached_ = processor_count() == 0 ? 0 : processor_count() + 1;
}

std::string Machine::processor_path(uint64_t number) const {
  // The second place is the first processor's interrupt controller's.
  return fmt::format("/machine/unattached/device[{}]", number == 0 ? 0 : number + 1);
}

Machine::Device* Machine::find(std::string_view id) const {
  if (id.empty()) return nullptr;
  const auto found = std::ranges::find_if(devices_, [&](const auto& device) {
    return device->id == id || device->path == id || device->qdev == id;
  });
  return found == devices_.end() ? nullptr : found->get();
}

Machine::Device* Machine::bus_owner(std::string_view bus) const {
  const auto found =
      std::ranges::find_if(devices_, [&](const auto& device) { return device->own_bus == bus; });
  return found == devices_.end() ? nullptr : found->get();
}

Expected<void> Machine::choose_bus(Device& device, std::optional<std::string> bus) {
  const std::string_view kind = device.model->bus;
  const auto none_found = [&] {
    return fail(fmt::format("No '{}' bus found for device '{}'", kind, device.model->name));
  };
  if (kind == "SCSI") {
    for (const auto& other : devices_) {
      if (other->own_bus.empty()) continue;
      if (!bus || other->own_bus == *bus) {
        device.bus = other->own_bus;
        return {};
      }
    }
    if (bus) return fail(fmt::format("Bus '{}' not found", *bus));
    return none_found();
  }
  if (kind == "IDE") {
    if (!type_.has_ide) return bus ? fail(fmt::format("Bus '{}' not found", *bus)) : none_found();
    if (!bus) {
      // The first bus with room.
      for (int number = 0; number < kIdeBuses; ++number) {
        const std::string name = fmt::format("ide.{}", number);
        const auto used =
            std::ranges::count_if(devices_, [&](const auto& other) { return other->bus == name; });
        device.bus = name;
        if (used < kIdeUnits) break;
      }
      return {};
    }
    const bool exists =
        bus->starts_with("ide.") && schema::parse_int64(bus->substr(4)).value_or(-1) >= 0 &&
        schema::parse_int64(bus->substr(4)).value_or(99) < (type_.has_floppy ? kIdeBuses : 6);
    if (!exists) return fail(fmt::format("Bus '{}' not found", *bus));
    device.bus = *bus;
    return {};
  }
  if (kind == "floppy-bus") {
    const bool present = type_.has_floppy || bus_owner("floppy-bus.0") != nullptr;
    if (!present) return none_found();
    device.bus = "floppy-bus.0";
    return {};
  }
  if (kind == "PCI") {
    if (type_.pci_bus.empty())
      return bus ? fail(fmt::format("Bus '{}' not found", *bus)) : none_found();
    device.bus = bus.value_or(std::string(type_.pci_bus));
    return {};
  }
  device.bus = bus.value_or("");
  return {};
}

Expected<void> Machine::choose_unit(Device& device, std::optional<uint64_t> unit) {
  const bool is_floppy = device.model->kind == ModelKind::kFloppy;
  const bool is_ide = device.model->bus == "IDE";
  if (!is_floppy && !is_ide) return {};
  const int units = is_floppy ? kFloppyUnits : kIdeUnits;
  const auto in_use = [&](int number) {
    return std::ranges::any_of(devices_, [&](const auto& other) {
      return other->bus == device.bus && other->unit == number;
    });
  };
  const std::string_view what = is_floppy ? "floppy" : "IDE";
  if (unit) {
    if (*unit >= static_cast<uint64_t>(units)) {
      return fail(
          fmt::format("Can't create {} unit {}, bus supports only {} units", what, *unit, units));
    }
    device.unit = static_cast<int>(*unit);
    if (in_use(device.unit)) {
      return fail(fmt::format("{} unit {} is in use", is_floppy ? "Floppy" : "IDE", device.unit));
    }
    return {};
  }
  device.unit = 0;
  while (device.unit < units && in_use(device.unit)) ++device.unit;
  if (device.unit == units) {
    return fail(fmt::format("Can't create {} unit {}, bus supports only {} units", what,
                            device.unit, units));
  }
  return {};
}

Task<Expected<void>> Machine::add_device(OptionText properties) {
  const auto driver = properties.take("driver");
  if (!driver) co_return fail("Parameter 'driver' is missing");
  const DeviceModel* model = find_device_model(*driver);
  if (model == nullptr)
    co_return fail(fmt::format("'{}' is not a valid device model name", *driver));
  auto made = co_await create(*model, std::move(properties), "");
  if (!made) co_return fail(std::move(made).error());
  co_return Expected<void>();
}

Task<Expected<Machine::Device*>> Machine::create(const DeviceModel& model, OptionText properties,
                                                 std::string parent) {
  auto device = std::make_unique<Device>();
  device->model = &model;
  BB_CO_TRY(choose_bus(*device, properties.take("bus")));
  if (auto id = properties.take("id")) {
    if (std::ranges::any_of(devices_, [&](const auto& other) { return other->id == *id; })) {
      co_return fail(fmt::format("Duplicate device ID '{}'", *id));
    }
    device->id = std::move(*id);
  }
  if (!parent.empty()) {
    device->path = fmt::format("{}/device[{}]", parent, unattached_++);
  } else if (!device->id.empty()) {
    device->path = "/machine/peripheral/" + device->id;
  } else {
    device->path = fmt::format("/machine/peripheral-anon/device[{}]", anonymous_++);
  }
  device->qdev = model.kind == ModelKind::kVirtioBlk ? device->path + "/virtio-backend"
                 : device->id.empty()                ? device->path
                                                     : device->id;
  for (const auto& [key, value] : properties.items()) {
    BB_CO_TRY(check_device_property(model, key, value));
  }
  device->properties = properties.items();
  // An empty name is none.
  if (const std::string* name = properties.find("iothread"); name != nullptr && !name->empty()) {
    if (objects_.find(*name) == nullptr) {
      co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", *name));
    }
    device->iothread = objects_.iothread(*name);
    if (device->iothread == nullptr) {
      co_return fail("Invalid parameter type for 'iothread', expected: iothread");
    }
  }
  if (model.kind == ModelKind::kVirtioScsi || model.kind == ModelKind::kScsiController) {
    device->own_bus = device->id.empty() ? fmt::format("scsi.{}", scsi_buses_) : device->id + ".0";
    if (device->id.empty()) ++scsi_buses_;
  }
  if (model.kind == ModelKind::kFloppyController) device->own_bus = "floppy-bus.0";
  if (model.uses_block()) {
    if (auto attached = co_await attach(*device, properties); !attached) {
      co_await detach(*device);
      co_return fail(std::move(attached).error());
    }
  }
  devices_.push_back(std::move(device));
  co_return devices_.back().get();
}

IoContext Machine::context_of(const Device& device) const {
  // virtio-scsi's disks are in the controller's iothread. virtio-blk moves only when a guest's
  // driver starts it, so here it stays in the main loop.
  if (device.model->bus != "SCSI") return nullptr;
  const Device* owner = bus_owner(device.bus);
  return owner == nullptr ? nullptr : owner->iothread;
}

Expected<void> Machine::bind_root(const Device& device) {
  const Node* node = device.backend->node();
  const Device* owner = device.model->bus == "SCSI" ? bus_owner(device.bus) : nullptr;
  if (owner != nullptr && owner->model->kind == ModelKind::kScsiController && node != nullptr &&
      node->context() != nullptr) {
    return fail("HBA does not support iothreads");
  }
  return device.backend->bind(context_of(device));
}

// Whether an iothread may carry out the requests of its disk. virtio-scsi asks for each, whether it
// has one or not.
Expected<void> Machine::check_dataplane(const Device& device) const {
  Node* node = device.backend->node();
  if (node == nullptr) return {};
  if (device.model->kind == ModelKind::kVirtioBlk && device.iothread != nullptr) {
    auto free = node->operations().check(Operation::kDataplane);
    if (free) return {};
    return fail("cannot start virtio-blk dataplane: " + free.error().description);
  }
  const Device* owner = device.model->bus == "SCSI" ? bus_owner(device.bus) : nullptr;
  if (owner == nullptr || owner->model->kind != ModelKind::kVirtioScsi) return {};
  return node->operations().check(Operation::kDataplane);
}

Task<Expected<void>> Machine::attach(Device& device, OptionText& properties) {
  const DeviceModel& model = *device.model;
  const bool removable = model.is_cd() || model.kind == ModelKind::kFloppy;
  MutexGuard guard = co_await graph_.lock();

  Node* node = nullptr;
  if (const auto name = properties.take("drive")) {
    if (Backend* found = graph_.find_backend(*name)) {
      Drive* drive = drives_.of(*found);
      if (drive == nullptr || drive->claimed) {
        const bool automatic = drive != nullptr && drive->interface != DriveInterface::kNone;
        co_return fail(fmt::format("Drive '{}' is already in use {}", *name,
                                   automatic ? "because it has been automatically connected to "
                                               "another device (did you need 'if=none' in the "
                                               "drive options?)"
                                             : "by another device"));
      }
      device.drive = drive;
      device.backend = found;
      node = found->node();
    } else if ((node = graph_.find_node(*name)) == nullptr) {
      const std::string_view shown =
          model.kind == ModelKind::kVirtioBlk ? "virtio-blk-device" : model.name;
      co_return fail(fmt::format("Property '{}.drive' can't find value '{}'", shown, *name));
    }
  } else if (!removable) {
    co_return fail(model.bus == "IDE" ? "No drive specified" : "drive property not set");
  }

  auto unit = properties.take_number("unit");
  if (!unit) co_return fail(std::move(unit).error());
  BB_CO_TRY(choose_unit(device, *unit));
  if (node == nullptr && !removable) co_return fail("Device needs media, but drive is empty");

  const auto size = [&](std::string_view key) {
    const std::string* text = properties.find(key);
    return text == nullptr ? uint64_t{0} : schema::parse_size(*text).value_or(0);
  };
  constexpr uint64_t kDefaultBlockSize = 512;
  const uint64_t logical =
      size("logical_block_size") == 0 ? kDefaultBlockSize : size("logical_block_size");
  const uint64_t physical = size("physical_block_size") == 0 ? std::max(logical, kDefaultBlockSize)
                                                             : size("physical_block_size");
  if (logical > physical) co_return fail("logical_block_size > physical_block_size not supported");
  if (model.kind == ModelKind::kFloppy && (logical != 512 || physical != 512)) {
    co_return fail("Physical and logical block size must be 512 for floppy");
  }

  // A guest that cannot write gets a read-only disk, save where the interface knows no such thing.
  const bool read_only =
      model.is_cd() || (model.bus != "IDE" && node != nullptr && node->flags().read_only);
  PermissionPair permissions{Permissions(Permission::kConsistentRead), kSharedByDevices};
  if (!read_only) permissions.needs |= Permission::kWrite;
  if (!removable) permissions.shares |= Permission::kResize;
  const std::string* share = properties.find("share-rw");
  if (share != nullptr && schema::parse_switch(*share).value_or(false))
    permissions.shares |= Permission::kWrite;

  const bool is_own = device.backend == nullptr;
  if (is_own) {
    device.own_backend = std::make_unique<Backend>(graph_, "", permissions);
    device.own_backend->set_description(fmt::format("block device '{}'", device.qdev));
    device.backend = device.own_backend.get();
  }
  device.backend->set_for_guest(true);
  // Which conflict is told when there are two: SCSI disks get to their controller's iothread last.
  if (model.bus != "SCSI") BB_CO_TRY(bind_root(device));
  if (!is_own) {
    BB_CO_TRY(device.backend->set_permissions(permissions));
    device.drive->claimed = true;
  } else if (node != nullptr) {
    BB_CO_TRY(device.own_backend->insert(*node));
  }
  if (model.bus == "SCSI") BB_CO_TRY(bind_root(device));
  BB_CO_TRY(check_dataplane(device));

  Backend& backend = *device.backend;
  if (const std::string* cache = properties.find("write-cache");
      cache != nullptr && *cache != "auto") {
    backend.set_write_cache(*cache == "on");
  }
  for (const auto& [key, action] : {std::pair{"rerror", &backend.on_read_error},
                                    std::pair{"werror", &backend.on_write_error}}) {
    const std::string* text = properties.find(key);
    if (text == nullptr || *text == "auto") continue;
    // A device takes for reads what -drive has for writes only.
    auto parsed = parse_error_action(*text, /*is_read=*/false);
    if (!parsed) co_return fail(std::move(parsed).error());
    *action = *parsed;
  }
  for (const auto& [key, flag] :
       {std::pair{"account-invalid", &backend.accounting().account_invalid},
        std::pair{"account-failed", &backend.accounting().account_failed}}) {
    if (const std::string* text = properties.find(key); text != nullptr && *text != "auto")
      *flag = *text == "on";
  }
  backend.io_status_enabled = model.kind != ModelKind::kFloppy;
  co_return Expected<void>();
}

Task<void> Machine::detach(Device& device) {
  if (device.backend == nullptr) co_return;
  MutexGuard guard = co_await graph_.lock();
  if (device.drive != nullptr) {
    device.drive->claimed = false;
    device.backend->unbind();
    device.backend->set_for_guest(false);
    const Expected<void> relaxed =
        device.backend->set_permissions({Permissions::none(), Permissions::all()});
    BB_ASSERT(relaxed.has_value());
  } else {
    co_await device.backend->remove();
    device.own_backend.reset();
  }
  device.backend = nullptr;
  co_await graph_.close_unreferenced();
}

namespace {

// What works on a disk ends when the disk goes away together with its device.
Task<void> cancel_jobs(const Backend& backend) {
  std::vector<std::shared_ptr<Job>> jobs;
  if (backend.node() == nullptr) co_return;
  for (const Edge* edge : backend.node()->parents()) {
    auto* job = dynamic_cast<BlockJob*>(&edge->parent());
    if (job != nullptr) jobs.push_back(job->shared_from_this());
  }
  // One that takes no cancel is at its end.
  for (const auto& job : jobs) (void)co_await job->registry().cancel(job, /*force=*/false);
}

}  // namespace

Task<Expected<void>> Machine::remove_device(std::string id, bool with_bus) {
  Device* device = find(id);
  if (device == nullptr)
    co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", id));
  const ModelKind kind = device->model->kind;
  if (!with_bus &&
      (kind == ModelKind::kIdeDisk || kind == ModelKind::kIdeCd || kind == ModelKind::kFloppy)) {
    co_return fail(fmt::format("Bus '{}' does not support hotplugging", device->bus));
  }
  // Disks go before their controller.
  if (!device->own_bus.empty()) {
    while (true) {
      const auto child = std::ranges::find_if(devices_, [&](const auto& other) {
        return other->bus == device->own_bus && other.get() != device;
      });
      if (child == devices_.end()) break;
      auto removed = co_await remove_device((*child)->path, /*with_bus=*/true);
      if (!removed) co_return removed;
    }
  }
  if (device->drive != nullptr) {
    co_await cancel_jobs(*device->drive->backend);
    device = find(id);
    if (device == nullptr) {
      co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", id));
    }
  }
  Drive* drive = device->drive;
  co_await detach(*device);
  EventSink& events = graph_.events();
  if (device->model->kind == ModelKind::kVirtioBlk ||
      device->model->kind == ModelKind::kVirtioScsi) {
    events.emit("DEVICE_DELETED", json::Object{{"path", device->path + "/virtio-backend"}});
  }
  json::Object data;
  if (!device->id.empty()) data.set("device", device->id);
  data.set("path", device->path);
  std::erase_if(devices_, [&](const auto& other) { return other.get() == device; });
  events.emit("DEVICE_DELETED", std::move(data));
  // A drive of -drive goes with the device that had it.
  if (drive != nullptr) co_await drives_.remove(*drive);
  co_return Expected<void>();
}

Task<Expected<void>> Machine::add_board_devices(bool defaults) {
  if (defaults && type_.has_ide) {
    // QEMU's default drives: a CD-ROM, a floppy, an SD card; none has a medium.
    struct Default {
      DriveInterface interface;
      int bus, unit;
      std::string_view options;
      bool wanted;
    };
    const Default kDefaults[] = {
        {DriveInterface::kIde, 1, 0, "if=ide,index=2,media=cdrom", true},
        {DriveInterface::kFloppy, 0, 0, "if=floppy,index=0", type_.has_floppy},
        {DriveInterface::kSd, 0, 0, "if=sd,index=0", true},
    };
    for (const Default& drive : kDefaults) {
      if (!drive.wanted || drives_.at(drive.interface, drive.bus, drive.unit) != nullptr) continue;
      std::vector<std::string> warnings;
      auto made =
          co_await drives_.add(*OptionText::parse(drive.options), drive.interface, "", warnings);
      if (!made) co_return fail(std::move(made).error());
    }
  }
  // The order in which a PC makes them.
  if (type_.has_floppy) {
    for (Drive& drive : drives_.all()) {
      if (drive.interface != DriveInterface::kFloppy) continue;
      BB_CO_TRY(co_await add_drive_device(drive, "floppy", "/machine/unattached"));
    }
  }
  if (type_.has_ide) {
    for (Drive& drive : drives_.all()) {
      if (drive.interface != DriveInterface::kIde) continue;
      BB_CO_TRY(co_await add_drive_device(drive, drive.cdrom ? "ide-cd" : "ide-hd",
                                          "/machine/unattached"));
    }
  }
  co_return Expected<void>();
}

Task<Expected<void>> Machine::add_drive_device(Drive& drive, std::string_view model,
                                               std::string parent) {
  OptionText properties;
  properties.set("drive", drive.name());
  if (drive.interface == DriveInterface::kIde)
    properties.set("bus", fmt::format("ide.{}", drive.bus));
  if (drive.interface != DriveInterface::kVirtio)
    properties.set("unit", fmt::format("{}", drive.unit));
  auto made = co_await create(*find_device_model(model), std::move(properties), std::move(parent));
  if (!made) co_return fail(std::move(made).error());
  co_return Expected<void>();
}

Task<Expected<void>> Machine::add_virtio_drives(std::string& location) {
  for (Drive& drive : drives_.all()) {
    if (drive.interface != DriveInterface::kVirtio) continue;
    location = drive.location;
    BB_CO_TRY(co_await add_drive_device(drive, "virtio-blk-pci", ""));
  }
  for (const Drive& drive : drives_.all()) {
    location = drive.location;
    const bool is_taken = drive.claimed || drive.interface == DriveInterface::kNone ||
                          drive.interface == DriveInterface::kSd ||
                          drive.interface == DriveInterface::kPflash;
    if (is_taken) continue;
    co_return fail(fmt::format("machine type does not support if={},bus={},unit={}",
                               interface_name(drive.interface), drive.bus, drive.unit));
  }
  location.clear();
  co_return Expected<void>();
}

Task<void> Machine::remove_all() {
  while (!devices_.empty()) {
    // Other monitors may add and delete meanwhile.
    const std::unique_ptr<Device> device = std::move(devices_.back());
    devices_.pop_back();
    co_await detach(*device);
  }
}

Machine::MediumPlace Machine::medium_place(Device& device) {
  const bool is_floppy = device.model->kind == ModelKind::kFloppy;
  return {.backend = device.backend,
          .removable = device.model->is_cd() || is_floppy,
          .tray_open = device.model->is_cd() ? &device.tray_open : nullptr,
          .qdev = device.qdev,
          .flags = device.drive != nullptr ? &device.drive->medium : &device.medium,
          .writes_if_possible = is_floppy};
}

Expected<Machine::MediumPlace> Machine::medium_place_of_drive(std::string_view name) {
  Drive* drive = drives_.find(name);
  if (drive == nullptr) {
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name));
  }
  for (const auto& device : devices_) {
    if (device->drive == drive) return medium_place(*device);
  }
  return MediumPlace{.backend = drive->backend.get(),
                     .removable = true,
                     .tray_open = nullptr,
                     .qdev = "",
                     .flags = &drive->medium,
                     .writes_if_possible = false};
}

Expected<Machine::MediumPlace> Machine::medium_place_of_device(std::string_view id) {
  Device* device = find(id);
  if (device == nullptr) {
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", id));
  }
  // What the id of a virtio disk names is the proxy, which has none.
  if (device->backend == nullptr ||
      (device->model->kind == ModelKind::kVirtioBlk && id != device->qdev)) {
    return fail("Device does not have a block device backend");
  }
  return medium_place(*device);
}

std::optional<DeviceFace> Machine::device_of(const Backend& backend) const {
  for (const auto& device : devices_) {
    if (device->backend != &backend) continue;
    DeviceFace face;
    face.qdev = device->qdev;
    face.removable = device->model->is_cd() || device->model->kind == ModelKind::kFloppy;
    face.has_tray = device->model->is_cd();
    face.tray_open = device->tray_open;
    face.locked = device->locked;
    return face;
  }
  return std::nullopt;
}

Backend* Machine::backend_of(std::string_view qdev) const {
  Device* device = find(qdev);
  return device == nullptr ? nullptr : device->backend;
}

Task<Expected<void>> Machine::change_drive(std::string path, json::Value name) {
  if (!name.is_string()) co_return fail("Invalid parameter type for 'drive', expected: string");
  MutexGuard guard = co_await graph_.lock();
  Device* const device = find(path);
  if (device == nullptr || device->backend == nullptr) {
    co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", path));
  }
  // Never the name of a drive: that one has its own root.
  Node* const node = graph_.find_node(name.as_string());
  if (node == nullptr) {
    co_return fail(fmt::format("Cannot find device='' nor node-name='{}'", name.as_string()));
  }
  if (node->context() != context_of(*device)) {
    co_return fail("Different aio context is not supported for new node");
  }
  Backend& backend = *device->backend;
  if (backend.node() == nullptr) co_return backend.insert(*node);
  {
    DrainedSection drained = co_await drain({backend.node(), node});
    GraphChange change(graph_);
    BB_CO_TRY(change.replace_node(backend.edge(), *node));
    BB_CO_TRY(change.check());
    change.commit();
  }
  co_await graph_.close_unreferenced();
  co_return Expected<void>();
}

std::string Machine::drive_name(const Device& device) {
  const Backend& backend = *device.backend;
  if (!backend.name().empty() || backend.node() == nullptr) return backend.name();
  return backend.node()->name();
}

std::vector<QomProperty> Machine::error_policies(const Device& device) {
  if (device.model->kind == ModelKind::kFloppy) return {};
  std::vector<QomProperty> policies;
  for (const std::string_view name : {"rerror", "werror"}) {
    std::string value = "auto";
    for (const auto& [key, given] : device.properties) {
      if (key == name) value = given;
    }
    // Of virtio-blk the part that is the disk has no name.
    const std::string owner =
        device.model->kind == ModelKind::kVirtioBlk ? "anonymous device (type 'virtio-blk-device')"
        : device.id.empty() ? fmt::format("anonymous device (type '{}')", device.model->name)
                            : fmt::format("device '{}' (type '{}')", device.id, device.model->name);
    policies.push_back(
        {std::string(name), "BlockdevOnError",
         [value]() -> Expected<json::Value> { return json::Value(value); },
         [name, owner](json::Value) -> Task<Expected<void>> {
           co_return fail(fmt::format("Attempt to set property '{}' on {} after it was realized",
                                      name, owner));
         }});
  }
  return policies;
}

void Machine::describe(QomNode& root) {
  QomNode& machine = root.child("machine", fmt::format("{}-machine", type_.name));
  QomNode& unattached = machine.child("unattached");
  for (uint64_t number = 0; number < processor_count(); ++number) {
    const std::string path = processor_path(number);
    unattached.child(std::string_view(path).substr(path.rfind('/') + 1), kProcessorType);
  }
  machine.child("peripheral-anon");
  machine.child("peripheral");
  for (const auto& device : devices_) {
    const std::size_t slash = device->path.rfind('/');
    QomNode& container = machine.child(std::string_view(device->path).substr(9, slash - 9));
    QomNode& node = container.child(device->path.substr(slash + 1), device->model->name);
    for (const auto& [key, value] : device->properties) {
      node.properties.push_back(
          {key, "str", [value]() -> Expected<json::Value> { return json::Value(value); }, nullptr});
    }
    if (device->backend != nullptr) {
      std::vector<QomProperty> of_disk = error_policies(*device);
      of_disk.push_back(
          {"drive", "str",
           [name = drive_name(*device)]() -> Expected<json::Value> { return json::Value(name); },
           [this, path = device->path](json::Value value) {
             return change_drive(path, std::move(value));
           }});
      std::erase_if(node.properties, [&](const auto& property) {
        return std::ranges::find(of_disk, property.name, &QomProperty::name) != of_disk.end();
      });
      node.properties.insert(node.properties.end(), of_disk.begin(), of_disk.end());
      if (device->model->kind == ModelKind::kVirtioBlk) {
        node.child("virtio-backend", "virtio-blk-device").properties = std::move(of_disk);
      }
    }
  }
}

}  // namespace blockbed
