// The command line in the manner of qemu-system-*: which options there are, and what was given.
//
// Contract: every option of QEMU 7.2 is known by name and number of arguments. Those that concern a
// CPU, memory or a screen are taken and ignored; those that act are collected in their order, each
// with its location (the option as it was typed) for messages. Unknown option, missing argument: an
// error. Nothing is opened here. Threading: pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/schema/error.h"

namespace blockbed::server {

struct OptionUse {
  // Without dashes: "drive".
  std::string name;
  std::string value;
  std::string location;
};

struct SystemOptions {
  // -drive and its short forms (-hda, -fda, -cdrom, ..., a bare file name), -blockdev, -device, ...
  std::vector<OptionUse> drives, blockdevs, devices, objects, chardevs, monitors, globals,
      accelerators;
  // Answered and done with, in order of appearance: -version, -machine help, ...
  std::optional<OptionUse> question;
  std::optional<OptionUse> machine, processors, qtest, incoming, loadvm, pidfile, uuid;
  std::string name;
  bool start_paused = false;
  bool no_defaults = false;
  bool no_shutdown = false;
  bool daemonize = false;
  bool nographic = false;
  bool snapshot = false;
  bool preconfig = false;
  // Files that images name are not opened; an option of ours.
  bool deny_image_references = false;
  // A monitor, serial port, ... was mentioned, so the default one is not made.
  bool monitor_given = false;
};

struct OptionFailure {
  std::string location;
  std::string text;
};

std::expected<SystemOptions, OptionFailure> parse_system_options(
    const std::vector<std::string>& arguments);

}  // namespace blockbed::server
