// -readconfig: options in a file.
//
//   [drive "d0"]
//     file = "disk.qcow2"
//
// Contract: read_config() gives one use of an option a section, as if it had stood on the command
// line; its location is ":FILE:LINE", where the line is the one that the section was complete at.
// Sections of options that a command line does not have, and lines that are neither: an error.
// Errors: texts of QEMU 7.2. Threading: engine thread, at the start.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "qmp/server/system_options.h"

namespace blockbed::server {

std::expected<std::vector<OptionUse>, OptionFailure> read_config(const OptionUse& use);

}  // namespace blockbed::server
