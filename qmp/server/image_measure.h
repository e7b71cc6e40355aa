// `blockbed measure`: how large the file of a new image will be, as `qemu-img measure` tells it.
//
// Contract: the arguments behind the word; the result is the status to exit with: 0, or 1 when the
// size could not be told. Threading: the thread of the process.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

int run_measure(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
