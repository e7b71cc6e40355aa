// The program in the manner of qemu-storage-daemon.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

// The exit status.
int run_daemon(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
