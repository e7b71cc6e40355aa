#include "qmp/machine/machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/graph_change.h"
#include "block/jobs/block_job.h"
#include "block/jobs/job_registry.h"
#include "block/runtime/event_sink.h"
#include "qmp/machine/device.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

namespace {

constexpr MachineType kTypes[] = {
    {"pc-i440fx-7.2", "pc", "Standard PC (i440FX + PIIX, 1996)", DriveInterface::kIde, "pci.0", 2,
     2, true, true, 255},
    {"pc-q35-7.2", "q35", "Standard PC (Q35 + ICH9, 2009)", DriveInterface::kIde, "pcie.0", 6, 1,
     false, false, 288},
    {"none", "", "empty machine", DriveInterface::kNone, ""},
};

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

Machine::Machine(Graph& graph, Drives& drives, ObjectStore& objects, const MachineType& type)
    : graph_(graph), drives_(drives), objects_(objects), type_(type) {
  set_processors({});
  board_ = board_buses(type_, bus_numbers_);
  if (type_.has_ide()) drives_.set_ide_units(type_.ide_units);
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

namespace {

std::unexpected<Error> no_hotplug(std::string_view bus) {
  return fail(fmt::format("Bus '{}' does not support hotplugging", bus));
}

}  // namespace

Task<Expected<void>> Machine::add_device(OptionText properties, Plugged when) {
  const auto driver = properties.take("driver");
  if (!driver) co_return fail("Parameter 'driver' is missing");
  const DeviceModel* model = find_device_model(*driver);
  if (model == nullptr)
    co_return fail(fmt::format("'{}' is not a valid device model name", *driver));
  if (when == Plugged::kLater && !model->hotplug)
    co_return fail("Parameter 'driver' expects a pluggable device type");
  auto made = co_await create(*model, std::move(properties), "", when);
  if (!made) co_return fail(std::move(made).error());
  co_return Expected<void>();
}

Task<Expected<Machine::Device*>> Machine::create(const DeviceModel& model, OptionText properties,
                                                 std::string parent, Plugged when) {
  auto device = std::make_unique<Device>();
  device->model = &model;
  auto bus = choose_bus(model, properties.take("bus"));
  if (!bus) co_return fail(std::move(bus).error());
  device->bus = (*bus)->name;
  if (when == Plugged::kLater && !(*bus)->hotplug) co_return no_hotplug(device->bus);
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
  device->buses = buses_of(model, device->id, bus_numbers_);
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
    co_await device.backend->release();
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
  if (!with_bus) {
    if (!find_bus(device->bus)->hotplug) co_return no_hotplug(device->bus);
    if (!device->model->hotplug) {
      co_return fail(fmt::format("Device '{}' does not support hotplugging", device->model->name));
    }
  }
  // Disks go before their controller.
  while (true) {
    const auto child = std::ranges::find_if(devices_, [&](const auto& other) {
      return std::ranges::find(device->buses, other->bus, &Bus::name) != device->buses.end();
    });
    if (child == devices_.end()) break;
    auto removed = co_await remove_device((*child)->path, /*with_bus=*/true);
    if (!removed) co_return removed;
    device = find(id);
    if (device == nullptr)
      co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", id));
  }
  if (device->backend != nullptr) {
    if (before_detaching_) co_await before_detaching_(*device->backend);
    device = find(id);
    if (device != nullptr && device->drive != nullptr) {
      co_await cancel_jobs(*device->drive->backend);
      device = find(id);
    }
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
  if (defaults && type_.has_ide()) {
    // QEMU's default drives: a CD-ROM, a floppy, an SD card; none has a medium.
    struct Default {
      DriveInterface interface;
      int bus, unit;
      std::string_view options;
      bool wanted;
    };
    constexpr int kCdRomIndex = 2;
    const Default kDefaults[] = {
        {DriveInterface::kIde, kCdRomIndex / type_.ide_units, kCdRomIndex % type_.ide_units,
         "if=ide,index=2,media=cdrom", true},
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
  if (type_.has_ide()) {
    for (Drive& drive : drives_.all()) {
      if (drive.interface != DriveInterface::kFloppy) continue;
      // A board that could do without a floppy controller has one when there is a drive for it.
      if (find_bus("floppy-bus.0") == nullptr) add_floppy_bus(board_, bus_numbers_);
      BB_CO_TRY(co_await add_drive_device(drive, "floppy", "/machine/unattached"));
    }
    for (Drive& drive : drives_.all()) {
      if (drive.interface != DriveInterface::kIde || drive.bus >= type_.ide_buses) continue;
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
  auto made = co_await create(*find_device_model(model), std::move(properties), std::move(parent),
                              Plugged::kAtStart);
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

}  // namespace blockbed
