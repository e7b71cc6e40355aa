#include "block/graph/operations.h"

#include <fmt/format.h>

#include "block/graph/node.h"

namespace blockbed {

Expected<void> NodeOperations::check(Operation operation) const {
  for (auto ban = bans_.rbegin(); ban != bans_.rend(); ++ban) {
    if (!(*ban)->operations_.has(operation)) continue;
    const std::string device = node_.device_name();
    const std::string& name = device.empty() ? node_.name() : device;
    return fail(fmt::format("Node '{}' is busy: {}", name, (*ban)->reason_));
  }
  return {};
}

OperationBan::OperationBan(NodeOperations& node, OperationSet operations, std::string reason)
    : node_(node), operations_(operations), reason_(std::move(reason)) {
  node_.bans_.push_back(this);
}

OperationBan::~OperationBan() { std::erase(node_.bans_, this); }

}  // namespace blockbed
