// What the command lines answer when they are asked: versions, machines, devices, formats, help.
//
// Contract: prints to standard output and returns the exit status. Forms are QEMU 7.2's, since
// programs read them.
#pragma once

#include <span>
#include <string_view>

#include "qmp/server/system_options.h"
#include "schema/qom.h"

namespace blockbed::server {

// `options.question` is there.
int answer_system_question(const SystemOptions& options);

void print_version(std::string_view what);
// "help", "TYPE,help", "TYPE,id=x,help"; false when that is no question about objects, or not about
// one of `types`.
bool print_object_help(std::string_view text, std::span<const std::string_view> types =
                                                  schema::names(schema::ObjectType{}));
void print_chardev_types();

}  // namespace blockbed::server
