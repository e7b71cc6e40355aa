// What the command lines answer when they are asked: versions, machines, devices, formats, help.
//
// Contract: prints to standard output and returns the exit status. Forms are QEMU 7.2's, since
// programs read them.
#pragma once

#include <string_view>

#include "qmp/server/system_options.h"

namespace blockbed::server {

// `options.question` is there.
int answer_system_question(const SystemOptions& options);

void print_version(std::string_view what);
// "help", "TYPE,help", "TYPE,id=x,help"; false when that is no question about objects.
bool print_object_help(std::string_view text);
void print_chardev_types();

}  // namespace blockbed::server
