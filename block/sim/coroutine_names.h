// A name for a suspended coroutine, for reports that people read.
//
// Contract: names the function whose frame this is, with its place in the source where addr2line is
// installed, else an address. Slow; for reports
// that come before the end of the process. Threading: any.
#pragma once

#include <string>

namespace blockbed::sim {

std::string coroutine_name(void* frame);

}  // namespace blockbed::sim
