// Drives: what -drive and drive_add make, a named backend with a place on a machine's interface.
//
// Problem: the older way to give a machine its disks mixes the image, its cache mode and
// throttling, the device and its place into one option. Clients still use it, and read back names
// that follow from it ("ide0-hd1").
//
// Contract
//  - add() checks and translates the option as QEMU 7.2 does, with its texts, and opens the image.
//    A drive without file and options is an empty one (a drive without medium).
//  - A drive lives until remove(); its backend must not be in use by a device then.
// Threading: engine thread; the graph lock is taken by add() and remove().
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "block/runtime/task.h"
#include "qmp/commands/option_text.h"
#include "qmp/schema/error.h"

namespace blockbed {

enum class DriveInterface { kNone, kIde, kScsi, kFloppy, kPflash, kMtd, kSd, kVirtio, kXen };

std::string_view interface_name(DriveInterface interface);

struct Drive {
  DriveInterface interface = DriveInterface::kNone;
  int bus = 0;
  int unit = 0;
  bool cdrom = false;
  // Stays taken until the drive is forgotten; the backend of a drive that was deleted under its
  // device has no name any more.
  std::string id;
  std::unique_ptr<Backend> backend;
  // As typed, for messages about the device that the machine makes for it.
  std::string location;
  // A device is attached.
  bool claimed = false;
  // How the next medium is opened, unless something else is said.
  NodeFlags medium{};

  const std::string& name() const { return backend->name(); }
};

class Drives {
 public:
  // Lines for the terminal of who started the program, whoever adds the drive.
  using Warn = std::function<void(std::string_view)>;
  Drives(Graph& graph, Warn warn) : graph_(graph), warn_(std::move(warn)) {}
  ~Drives();
  Drives(const Drives&) = delete;
  Drives& operator=(const Drives&) = delete;

  // Warnings about deprecated forms are appended to `warnings`.
  Task<Expected<Drive*>> add(OptionText options, DriveInterface default_interface,
                             std::string location, std::vector<std::string>& warnings);
  // Takes the medium out and forgets the drive.
  Task<void> remove(Drive& drive);
  Task<void> remove_all();

  // Tells that an image that may be written was taken for raw.
  void warn_of_guess(const Node& node);

  Drive* find(std::string_view name);
  bool has_id(std::string_view id) const;
  Drive* of(const Backend& backend);
  Drive* at(DriveInterface interface, int bus, int unit);
  std::list<Drive>& all() { return drives_; }

  // Of an IDE bus of the machine: where `index` and drives that say nothing go.
  void set_ide_units(int units) { ide_units_ = units; }

 private:
  struct Place {
    DriveInterface interface = DriveInterface::kNone;
    int bus = 0;
    int unit = 0;
    bool cdrom = false;
  };
  int units_of(DriveInterface interface) const;
  Expected<Place> take_place(OptionText& options, DriveInterface default_interface);
  Expected<std::string> name_for(OptionText& options, const Place& place) const;
  Task<Expected<void>> open_medium(Drive& drive, std::optional<std::string> file,
                                   OptionText options);

  Task<void> complete_options(json::Object& node, bool is_storage);
  void place_filename(json::Object& options, std::string filename);

  Graph& graph_;
  Warn warn_;
  std::list<Drive> drives_;
  std::optional<int> ide_units_;
};

// The text of `werror` and `rerror`: "'x' invalid write error action".
Expected<OnError> parse_error_action(const std::string& text, bool is_read);

}  // namespace blockbed
