// `blockbed map`: which layer of an image's chain holds what, as `qemu-img map` tells it.
//
// Contract: the arguments behind the word; the result is the status to exit with: 0, or 1 when the
// map could not be told. Threading: the thread of the process.
#pragma once

#include <string>
#include <vector>

namespace blockbed::server {

int run_map(const std::vector<std::string>& arguments);

}  // namespace blockbed::server
