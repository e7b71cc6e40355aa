// How many processors the guest would have, and where they would sit.
//
// Problem: no processor runs here, but management software counts them before it starts a guest.
// Contract: parse() reads what -smp takes; numbers that are not given follow from the others, cores
// before sockets. A machine without processors (max 1, of type "none") reports none. Errors: texts
// of QEMU 7.2.
#pragma once

#include <cstdint>
#include <string_view>

#include "qmp/commands/option_text.h"
#include "qmp/schema/error.h"

namespace blockbed {

struct MachineType;

struct Processors {
  uint64_t count = 1;
  // Those that could be added while it runs, too.
  uint64_t max = 1;
  uint64_t sockets = 1, dies = 1, cores = 1, threads = 1;

  static Expected<Processors> parse(const OptionText& options, const MachineType& type);
};

}  // namespace blockbed
