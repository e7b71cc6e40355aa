// What qemu-io's commands are called with: for the files that implement qemu_io.h, no others.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "block/graph/backend.h"
#include "block/graph/permissions.h"
#include "qmp/commands/qemu_io.h"
#include "qmp/commands/qemu_io_text.h"

namespace blockbed::qemu_io {

inline constexpr uint64_t kSector = 512;

struct Runner::Entry {
  std::string_view name;
  std::string_view short_name;
  Task<void> (Runner::*run)(Call&);
  int at_least;
  int at_most;  // -1: any number
  // As parse_arguments() takes them.
  std::string_view letters;
  Permissions needs;
  std::string_view arguments;
  std::string_view help;

  std::string usage() const {
    return fmt::format("{}{}{} -- {}\n", name, arguments.empty() ? "" : " ", arguments, help);
  }
};

struct Runner::Call {
  Backend& backend;
  const Entry& entry;
  Arguments arguments;
  std::string& complaints;
};

}  // namespace blockbed::qemu_io
