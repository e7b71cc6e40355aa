#include "block/graph/shown_name.h"

#include "block/graph/node.h"

namespace blockbed {

std::string shown_name(const Node& node) {
  std::string device = node.device_name();
  return device.empty() ? node.name() : device;
}

}  // namespace blockbed
