// What the block commands ask of the machine: who is attached to a backend.
//
// Problem: query-block reports the face of a device (its path, tray, lock), and commands name
// devices by their qdev id, but devices live above the commands. The machine implements this; the
// storage daemon has nothing to say.
//
// Contract: answers follow the machine's state of the moment; nothing is kept. Threading: engine
// thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace blockbed {

class Backend;

struct DeviceFace {
  // The id of -device, or the object's path when it has none (and for virtio-blk always).
  std::string qdev;
  bool removable = false;
  bool has_tray = false;
  bool tray_open = false;
  bool locked = false;
};

class DeviceDirectory {
 public:
  virtual ~DeviceDirectory() = default;
  // No value: no device is attached to the backend.
  virtual std::optional<DeviceFace> device_of(const Backend& backend) const = 0;
  // The backend of a device by its id or path; null when there is no such device.
  virtual Backend* backend_of(std::string_view qdev) const = 0;
  // A device has given up the drive of that name: the drive may go (drive_del) or must stay.
  virtual bool owns(const Backend& backend) const = 0;
};

// The directory of a program without devices.
class NoDevices final : public DeviceDirectory {
 public:
  std::optional<DeviceFace> device_of(const Backend&) const override { return std::nullopt; }
  Backend* backend_of(std::string_view) const override { return nullptr; }
  bool owns(const Backend&) const override { return false; }
};

}  // namespace blockbed
