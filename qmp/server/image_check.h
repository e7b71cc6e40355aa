// `blockbed check`: what `qemu-img check` does and says, and with --explain who refers to what is
// wrong. Status: 0 all well, 1 the check could not be done, 2 corruptions, 3 leaks only, 63 the
// format has no check. Threading: the thread of the process.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

int run_check(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
