#include "qmp/machine/device_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "qmp/schema/scalar_text.h"

namespace blockbed {

namespace {

constexpr std::string_view kBridges = "Controller/Bridge/Hub devices";
constexpr std::string_view kUsb = "USB devices";
constexpr std::string_view kStorage = "Storage devices";
constexpr std::string_view kNetwork = "Network devices";
constexpr std::string_view kInput = "Input devices";
constexpr std::string_view kDisplay = "Display devices";
constexpr std::string_view kMisc = "Misc devices";

constexpr DeviceModel kModels[] = {
    {kBridges, "pci-bridge", "", "PCI", "Standard PCI Bridge"},
    {kBridges, "pcie-pci-bridge", "", "PCI", ""},
    {kBridges, "pcie-root-port", "", "PCI", "PCI Express Root Port"},
    {kUsb, "ich9-usb-ehci1", "", "PCI", "", ModelKind::kOther, false},
    {kUsb, "piix3-usb-uhci", "", "PCI", ""},
    {kUsb, "qemu-xhci", "", "PCI", ""},
    {kUsb, "usb-ehci", "", "PCI", ""},
    {kStorage, "floppy", "", "floppy-bus", "virtual floppy drive", ModelKind::kFloppy},
    {kStorage, "ich9-ahci", "ahci", "PCI", ""},
    {kStorage, "ide-cd", "", "IDE", "virtual IDE CD-ROM", ModelKind::kIdeCd},
    {kStorage, "ide-hd", "", "IDE", "virtual IDE disk", ModelKind::kIdeDisk},
    {kStorage, "isa-fdc", "", "ISA", "virtual floppy controller", ModelKind::kFloppyController},
    {kStorage, "lsi53c810", "", "PCI", "", ModelKind::kScsiController},
    {kStorage, "lsi53c895a", "lsi", "PCI", "", ModelKind::kScsiController},
    {kStorage, "megasas", "", "PCI", "LSI MegaRAID SAS 1078", ModelKind::kScsiController},
    {kStorage, "scsi-cd", "", "SCSI", "virtual SCSI CD-ROM", ModelKind::kScsiCd},
    {kStorage, "scsi-hd", "", "SCSI", "virtual SCSI disk", ModelKind::kScsiDisk},
    {kStorage, "virtio-blk-device", "", "virtio-bus", "", ModelKind::kVirtioBlk},
    {kStorage, "virtio-blk-pci", "virtio-blk", "PCI", "", ModelKind::kVirtioBlk},
    {kStorage, "virtio-blk-pci-non-transitional", "", "PCI", "", ModelKind::kVirtioBlk},
    {kStorage, "virtio-blk-pci-transitional", "", "PCI", "", ModelKind::kVirtioBlk},
    {kStorage, "virtio-scsi-device", "", "virtio-bus", "", ModelKind::kVirtioScsi},
    {kStorage, "virtio-scsi-pci", "virtio-scsi", "PCI", "", ModelKind::kVirtioScsi},
    {kStorage, "virtio-scsi-pci-non-transitional", "", "PCI", "", ModelKind::kVirtioScsi},
    {kStorage, "virtio-scsi-pci-transitional", "", "PCI", "", ModelKind::kVirtioScsi},
    {kNetwork, "e1000", "e1000-82540em", "PCI", "Intel Gigabit Ethernet"},
    {kNetwork, "virtio-net-pci", "virtio-net", "PCI", ""},
    {kInput, "isa-serial", "", "ISA", ""},
    {kInput, "virtconsole", "", "virtio-serial-bus", ""},
    {kInput, "virtio-serial-pci", "virtio-serial", "PCI", ""},
    {kInput, "virtserialport", "", "virtio-serial-bus", ""},
    {kDisplay, "VGA", "", "PCI", "", ModelKind::kOther, false},
    {kDisplay, "qxl-vga", "", "PCI", "Spice QXL GPU (primary, vga compatible)", ModelKind::kOther,
     false},
    {kMisc, "virtio-balloon-pci", "virtio-balloon", "PCI", ""},
    {kMisc, "virtio-rng-pci", "virtio-rng", "PCI", ""},
};

enum class Type { kText, kSwitch, kAuto, kSize, kBlockSize, kInteger, kErrorAction, kDriveType };

struct Property {
  std::string_view name;
  Type type;
};

// Of every device with a block node.
constexpr Property kBlockProperties[] = {
    {"drive", Type::kText},
    {"backend_defaults", Type::kAuto},
    {"logical_block_size", Type::kBlockSize},
    {"physical_block_size", Type::kBlockSize},
    {"min_io_size", Type::kSize},
    {"opt_io_size", Type::kSize},
    {"discard_granularity", Type::kSize},
    {"write-cache", Type::kAuto},
    {"share-rw", Type::kSwitch},
    {"account-invalid", Type::kAuto},
    {"account-failed", Type::kAuto},
};
constexpr Property kErrorProperties[] = {
    {"rerror", Type::kErrorAction},
    {"werror", Type::kErrorAction},
};
constexpr Property kDiskProperties[] = {
    {"cyls", Type::kInteger},          {"heads", Type::kInteger},  {"secs", Type::kInteger},
    {"lcyls", Type::kInteger},         {"lheads", Type::kInteger}, {"lsecs", Type::kInteger},
    {"bootindex", Type::kInteger},     {"serial", Type::kText},    {"wwn", Type::kText},
    {"rotation_rate", Type::kInteger}, {"ver", Type::kText},
};
constexpr Property kVirtioBlkProperties[] = {
    {"config-wce", Type::kSwitch},
    {"scsi", Type::kSwitch},
    {"request-merging", Type::kSwitch},
    {"num-queues", Type::kInteger},
    {"queue-size", Type::kInteger},
    {"seg-max-adjust", Type::kSwitch},
    {"discard", Type::kSwitch},
    {"report-discard-granularity", Type::kSwitch},
    {"write-zeroes", Type::kSwitch},
    {"max-discard-sectors", Type::kInteger},
    {"max-write-zeroes-sectors", Type::kInteger},
    {"iothread", Type::kText},
    {"x-enable-wce-if-config-wce", Type::kSwitch},
};
constexpr Property kVirtioScsiProperties[] = {
    {"num_queues", Type::kInteger},    {"virtqueue_size", Type::kInteger},
    {"seg_max_adjust", Type::kSwitch}, {"max_sectors", Type::kInteger},
    {"cmd_per_lun", Type::kInteger},   {"hotplug", Type::kSwitch},
    {"param_change", Type::kSwitch},   {"iothread", Type::kText},
};
constexpr Property kVirtioProperties[] = {
    {"indirect_desc", Type::kSwitch},
    {"event_idx", Type::kSwitch},
    {"notify_on_empty", Type::kSwitch},
    {"any_layout", Type::kSwitch},
    {"iommu_platform", Type::kSwitch},
    {"packed", Type::kSwitch},
    {"queue_reset", Type::kSwitch},
    {"use-started", Type::kSwitch},
    {"use-disabled-flag", Type::kSwitch},
    {"ioeventfd", Type::kSwitch},
    {"vectors", Type::kInteger},
    {"disable-legacy", Type::kAuto},
    {"disable-modern", Type::kSwitch},
    {"page-per-vq", Type::kSwitch},
    {"ats", Type::kSwitch},
    {"class", Type::kInteger},
    {"migrate-extra", Type::kSwitch},
    {"modern-pio-notify", Type::kSwitch},
};
constexpr Property kPciProperties[] = {
    {"addr", Type::kText},
    {"romfile", Type::kText},
    {"romsize", Type::kInteger},
    {"rombar", Type::kInteger},
    {"multifunction", Type::kSwitch},
    {"failover_pair_id", Type::kText},
    {"acpi-index", Type::kInteger},
};
constexpr Property kScsiProperties[] = {
    {"channel", Type::kInteger},
    {"scsi-id", Type::kInteger},
    {"lun", Type::kInteger},
    {"vendor", Type::kText},
    {"product", Type::kText},
    {"device_id", Type::kText},
    {"removable", Type::kSwitch},
    {"dpofua", Type::kSwitch},
    {"port_wwn", Type::kText},
    {"port_index", Type::kInteger},
    {"max_unmap_size", Type::kInteger},
    {"max_io_size", Type::kInteger},
    {"scsi_version", Type::kInteger},
};
constexpr Property kIdeProperties[] = {
    {"unit", Type::kInteger},
    {"model", Type::kText},
    {"bios-chs-trans", Type::kText},
};
constexpr Property kFloppyProperties[] = {
    {"unit", Type::kInteger},
    {"drive-type", Type::kDriveType},
};

std::vector<std::span<const Property>> properties_of(const DeviceModel& model) {
  std::vector<std::span<const Property>> sets;
  if (model.uses_block()) sets.emplace_back(kBlockProperties);
  if (model.uses_block() && model.kind != ModelKind::kFloppy) sets.emplace_back(kErrorProperties);
  if (model.uses_block() && model.kind != ModelKind::kFloppy) sets.emplace_back(kDiskProperties);
  if (model.bus == "PCI") sets.emplace_back(kPciProperties);
  switch (model.kind) {
    case ModelKind::kVirtioBlk:
      sets.emplace_back(kVirtioBlkProperties);
      sets.emplace_back(kVirtioProperties);
      break;
    case ModelKind::kVirtioScsi:
      sets.emplace_back(kVirtioScsiProperties);
      sets.emplace_back(kVirtioProperties);
      break;
    case ModelKind::kScsiDisk:
    case ModelKind::kScsiCd:
      sets.emplace_back(kScsiProperties);
      break;
    case ModelKind::kIdeDisk:
    case ModelKind::kIdeCd:
      sets.emplace_back(kIdeProperties);
      break;
    case ModelKind::kFloppy:
      sets.emplace_back(kFloppyProperties);
      break;
    default:
      break;
  }
  return sets;
}

std::string_view type_name(Type type) {
  switch (type) {
    case Type::kText:
      return "str";
    case Type::kSwitch:
      return "bool";
    case Type::kAuto:
      return "OnOffAuto";
    case Type::kSize:
    case Type::kBlockSize:
      return "size";
    case Type::kInteger:
      return "uint32";
    case Type::kErrorAction:
      return "BlockdevOnError";
    case Type::kDriveType:
      return "FdcDriveType";
  }
  return "str";
}

// A block size of a device is a power of two in this range.
constexpr uint64_t kMinBlockSize = 512;
constexpr uint64_t kMaxBlockSize = uint64_t{2} << 20;

Expected<void> check_value(std::string_view name, Type type, const std::string& value) {
  const auto not_accepted = [&] {
    return fail(fmt::format("Parameter '{}' does not accept value '{}'", name, value));
  };
  switch (type) {
    case Type::kText:
      return {};
    case Type::kSwitch:
      if (!schema::parse_switch(value))
        return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", name));
      return {};
    case Type::kAuto:
      if (value != "auto" && value != "on" && value != "off") return not_accepted();
      return {};
    case Type::kInteger:
      if (!schema::parse_int64(value))
        return fail(fmt::format("Parameter '{}' expects integer", name));
      return {};
    case Type::kSize:
    case Type::kBlockSize: {
      const auto size = schema::parse_size(value);
      if (!size) return fail(fmt::format("Parameter '{}' expects size", name));
      if (type == Type::kSize || *size == 0) return {};
      if (*size < kMinBlockSize || *size > kMaxBlockSize) {
        return fail(fmt::format("Property .{} doesn't take value {} (minimum: {}, maximum: {})",
                                name, *size, kMinBlockSize, kMaxBlockSize));
      }
      if (!std::has_single_bit(*size)) {
        return fail(fmt::format("Property .{} doesn't take value '{}', it's not a power of 2", name,
                                *size));
      }
      return {};
    }
    case Type::kErrorAction:
      if (value != "report" && value != "ignore" && value != "enospc" && value != "stop" &&
          value != "auto") {
        return not_accepted();
      }
      return {};
    case Type::kDriveType:
      if (value != "144" && value != "288" && value != "120" && value != "none" &&
          value != "auto") {
        return not_accepted();
      }
      return {};
  }
  return {};
}

}  // namespace

std::span<const DeviceModel> device_models() { return kModels; }

const DeviceModel* find_device_model(std::string_view name) {
  const auto found = std::ranges::find_if(kModels, [&](const DeviceModel& model) {
    return model.name == name || (!model.alias.empty() && model.alias == name);
  });
  return found == std::end(kModels) ? nullptr : &*found;
}

std::string device_help() {
  std::string text;
  std::string_view category;
  for (const DeviceModel& model : kModels) {
    if (model.category != category) {
      if (!category.empty()) text += "\n";
      category = model.category;
      text += fmt::format("{}:\n", category);
    }
    text += fmt::format("name \"{}\", bus {}", model.name, model.bus);
    if (!model.alias.empty()) text += fmt::format(", alias \"{}\"", model.alias);
    if (!model.description.empty()) text += fmt::format(", desc \"{}\"", model.description);
    text += "\n";
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> list_device_properties(const DeviceModel& model) {
  std::vector<std::pair<std::string, std::string>> list;
  for (const std::span<const Property> set : properties_of(model)) {
    for (const Property& property : set) list.emplace_back(property.name, type_name(property.type));
  }
  return list;
}

Expected<void> check_device_property(const DeviceModel& model, std::string_view property,
                                     const std::string& value) {
  const bool is_known_kind = model.uses_block() || model.kind == ModelKind::kVirtioScsi;
  if (!is_known_kind) return {};
  for (const std::span<const Property> set : properties_of(model)) {
    const auto found = std::ranges::find(set, property, &Property::name);
    if (found != set.end()) return check_value(property, found->type, value);
  }
  // Switches for compatibility with other versions have no meaning here.
  if (property.starts_with("x-") || property.starts_with("quirk_")) return {};
  return fail(fmt::format("Property '{}.{}' not found", model.name, property));
}

}  // namespace blockbed
