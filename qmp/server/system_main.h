// The program in the manner of qemu-system-*.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

// The exit status.
int run_system(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
