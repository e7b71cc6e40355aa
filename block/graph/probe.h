// What format an image has, by the look of its first bytes.
//
// Threading: engine thread only.
#pragma once

#include <string>

#include "block/graph/graph.h"

namespace blockbed {

inline constexpr std::size_t kProbeBytes = 512;

// The driver that is the surest of it; null when none is.
const DriverEntry* probe_format(const DriverRegistry& drivers, const ProbeInput& input);

// The name of the format of the file at `path`; "raw" when there is none, or nothing to be read.
Task<std::string> probe_file(Graph& graph, std::string path);

}  // namespace blockbed
