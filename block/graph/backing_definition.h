// Definitions of backing files beside the name that the image has in its header.
//
// Problem: who defines a backing file instead of naming a node says how to open it; the name in the
// header still says what, unless the definition names a file itself. Where both say it, or a driver
// cannot take such a name, nobody knows which is meant.
// Source of the rule: what blockdev-add of QEMU 7.2 refuses, and its texts. Threading: pure.
#pragma once

#include <string>

#include "block/graph/graph.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// `header_name` is not empty. `definition` has been checked against the schema.
Expected<void> check_beside_header_name(const DriverRegistry& drivers,
                                        const json::Object& definition,
                                        const std::string& header_name);

}  // namespace blockbed
