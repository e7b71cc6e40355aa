// `blockbed amend`: other options for an image there is, as `qemu-img amend` gives them.
//
// Contract: the arguments behind the word; the result is the status to exit with: 0, or 1 when
// something could not be changed. Threading: the thread of the process.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

int run_amend(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
