// The command line in the manner of qemu-system-*: which options there are, and what was given.
//
// Contract: every option of QEMU 7.2 is known by name and number of arguments. Those that concern a
// CPU, memory, a screen or a network are taken and ignored; those that act are collected in their
// order, each with its location (the option as it was typed) for messages; those that would act and
// cannot are `refused`. Unknown option, missing argument: an error. Nothing is opened here but the
// file of -readconfig. Threading: engine thread, at the start.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
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
  std::optional<OptionUse> machine, processors, qtest, pidfile, uuid, incoming;
  std::optional<OptionUse> kernel, initrd, append, log_file, user, root, messages;
  // -serial, -parallel, -debugcon: nobody speaks on them, but they are there.
  std::vector<OptionUse> ports;
  // What this program cannot do, and what it is called.
  std::vector<std::pair<OptionUse, std::string_view>> refused;
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
  // About deprecated forms, each with its location.
  std::vector<std::pair<std::string, std::string>> warnings;
};

struct OptionFailure {
  std::string location;
  std::string text;
};

// What came before a failure stays in `options`.
std::expected<void, OptionFailure> parse_system_options(const std::vector<std::string>& arguments,
                                                        SystemOptions& options);

}  // namespace blockbed::server
