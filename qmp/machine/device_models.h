// The device models that can be named, with the properties of those that use block nodes.
//
// Problem: clients probe for models (`-device help`), create them with properties, and read QEMU's
// complaints. No guest will ever drive them, so a model is its name, its bus, and what its
// properties may hold.
//
// Contract: models that do nothing here (a serial port, a balloon) take any property. Threading:
// constants.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed {

enum class ModelKind {
  kOther,
  kVirtioBlk,
  kScsiDisk,
  kScsiCd,
  kIdeDisk,
  kIdeCd,
  kFloppy,
  // Gives a bus for SCSI devices; virtio-scsi can move it to an iothread.
  kVirtioScsi,
  kScsiController,
  kFloppyController,
};

struct DeviceModel {
  std::string_view category;
  std::string_view name;
  std::string_view alias;
  // The bus that it sits on.
  std::string_view bus;
  std::string_view description;
  ModelKind kind = ModelKind::kOther;
  // Can come and go while the machine runs, where its bus allows it.
  bool hotplug = true;

  bool uses_block() const { return kind >= ModelKind::kVirtioBlk && kind <= ModelKind::kFloppy; }
  bool is_cd() const { return kind == ModelKind::kScsiCd || kind == ModelKind::kIdeCd; }
};

std::span<const DeviceModel> device_models();
// By name or alias.
const DeviceModel* find_device_model(std::string_view name);
// What `-device help` prints.
std::string device_help();

// Name and type of each: {"write-cache", "OnOffAuto"}. None for models that do nothing here.
std::vector<std::pair<std::string, std::string>> list_device_properties(const DeviceModel& model);

// Checks the value of one property of a model that uses block nodes or gives a bus: "Property 'M.p'
// not found", "Parameter 'p' expects integer".
Expected<void> check_device_property(const DeviceModel& model, std::string_view property,
                                     const std::string& value);

}  // namespace blockbed
