// The filters that this server has.
#pragma once

namespace blockbed {

class DriverRegistry;

void register_filters(DriverRegistry& registry);

}  // namespace blockbed
