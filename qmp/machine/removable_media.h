// RemovableMedia: trays that open and close, media that come and go.
//
// Problem: the medium of a CD-ROM or floppy drive is changed while the device stays; commands name
// the drive by the device or by its backend, which may have no device, no tray, or no medium.
//
// Contract
//  - A device without tray, and a drive without device, behave as if their tray were always open;
//    opening and closing it does nothing.
//  - A medium that is taken out leaves behind how it was opened: what change() puts in is opened
//    the same way.
//  - What the guest does with trays does not happen here, so no tray is ever locked.
// Errors: texts of QEMU 7.2. Source of the rules: QEMU 7.2, tried out. Threading: engine thread.
#pragma once

#include <optional>
#include <string>

#include "block/graph/graph.h"
#include "qmp/machine/machine.h"

namespace blockbed {

class ExportRegistry;

class RemovableMedia {
 public:
  // By the name of the backend, or by the device's id or path: exactly one of them.
  struct DriveName {
    std::optional<std::string> device;
    std::optional<std::string> id;

    static DriveName of_device(std::string device) { return {std::move(device), std::nullopt}; }
    static DriveName of_id(std::string id) { return {std::nullopt, std::move(id)}; }
    const std::string& text() const { return device ? *device : *id; }
  };
  struct NewMedium {
    std::string filename;
    // Absent: found by looking at the image.
    std::optional<std::string> format;
    // Absent: as the medium before.
    std::optional<bool> read_only;
  };

  // All outlive it.
  RemovableMedia(Graph& graph, Machine& machine, ExportRegistry& exports)
      : graph_(graph), machine_(machine), exports_(exports) {}

  Task<Expected<void>> open_tray(DriveName drive);
  Task<Expected<void>> close_tray(DriveName drive);
  // Opens the tray and takes the medium out; to do so with nothing there is no error.
  Task<Expected<void>> eject(DriveName drive);
  Task<Expected<void>> remove(DriveName drive);
  Task<Expected<void>> insert(DriveName drive, std::string node_name);
  // The new medium is opened before anything moves.
  Task<Expected<void>> change(DriveName drive, NewMedium medium);

 private:
  using Place = Machine::MediumPlace;

  Expected<Place> find(const DriveName& drive) const;
  Expected<void> move_tray(const Place& place, const DriveName& drive, bool open);
  Task<Expected<NodeRef>> open(const Place& place, NewMedium medium);
  Task<Expected<void>> take_out(const Place& place, const DriveName& drive);
  // With the graph lock held.
  Expected<void> put_in(const Place& place, Node& node);

  Graph& graph_;
  Machine& machine_;
  ExportRegistry& exports_;
};

// eject, blockdev-open-tray, blockdev-close-tray, blockdev-remove-medium, blockdev-insert-medium,
// blockdev-change-medium, and the human eject and change. `media` outlives the tables.
void register_media_commands(CommandTable& commands, HumanTable& human, RemovableMedia& media);

}  // namespace blockbed
