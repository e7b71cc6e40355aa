// What the command lines answer when they are asked: versions, machines, devices, formats, help.
//
// Contract: prints to standard output and returns the exit status. Forms are QEMU 7.2's, since
// programs read them.
#pragma once

#include <string_view>

#include "qmp/server/system_options.h"

namespace blockbed::server {

int answer_system_question(const OptionUse& question);

void print_version(std::string_view what);
// "List of user creatable objects:" ...
void print_object_types();
void print_chardev_types();

}  // namespace blockbed::server
