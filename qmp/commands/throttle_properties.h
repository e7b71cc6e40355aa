// The limits of a throttle group as the properties of an object: `limits` as a whole, and one
// `x-NAME` for each, which only -object can set.
//
// Errors: texts of QEMU 7.2. Threading: engine thread.
#pragma once

#include <memory>

#include "block/graph/throttle_group.h"
#include "qmp/commands/qom.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// `properties` of object-add, by the schema; what is not given limits nothing.
Expected<ThrottleLimits> throttle_limits_of(const json::Object& properties);

QomNode describe_throttle_group(const std::shared_ptr<ThrottleGroup>& group);

}  // namespace blockbed
