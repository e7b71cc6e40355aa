// Options that are lists of suboptions: which those are, and of what kind.
//
// Problem: most of them concern what is not here, but a suboption that does not exist is a mistake
// of whoever wrote the command line, and is an error as it is in QEMU.
//
// Contract: check_option_group() looks at names and values and does nothing else; options that are
// no such group pass. Warnings about deprecated forms are appended to `warnings`. Errors: texts of
// QEMU 7.2. Threading: pure function.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "qmp/server/system_options.h"

namespace blockbed::server {

std::expected<void, OptionFailure> check_option_group(const OptionUse& use,
                                                      std::vector<std::string>& warnings);

}  // namespace blockbed::server
