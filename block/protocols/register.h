// The protocols that this server has.
#pragma once

namespace blockbed {

class DriverRegistry;

void register_protocols(DriverRegistry& registry);

}  // namespace blockbed
