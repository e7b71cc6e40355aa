// The formats that this server has.
#pragma once

namespace blockbed {

class DriverRegistry;

void register_formats(DriverRegistry& registry);

}  // namespace blockbed
