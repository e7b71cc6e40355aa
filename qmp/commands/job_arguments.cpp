#include "qmp/commands/job_arguments.h"

#include <algorithm>

#include "block/filters/snapshot_access.h"
#include "block/graph/medium.h"

namespace blockbed {

OnError error_policy(const std::optional<schema::BlockdevOnError>& policy) {
  switch (policy.value_or(schema::BlockdevOnError::kReport)) {
    case schema::BlockdevOnError::kReport:
      return OnError::kReport;
    case schema::BlockdevOnError::kIgnore:
      return OnError::kIgnore;
    case schema::BlockdevOnError::kEnospc:
      return OnError::kEnospc;
    case schema::BlockdevOnError::kStop:
      return OnError::kStop;
    case schema::BlockdevOnError::kAuto:
      return OnError::kAuto;
  }
  return OnError::kReport;
}

Expected<Node*> find_root_node(Graph& graph, const std::string& device) {
  auto node = graph.find_device_or_node(device, device);
  if (!node) return node;
  const bool root = std::ranges::all_of((*node)->parents(), [](Edge* edge) {
    return dynamic_cast<Backend*>(&edge->parent()) != nullptr || reads_internal_snapshot(*edge);
  });
  if (!root) return fail("Need a root block node");
  BB_TRY(check_medium(**node));
  return node;
}

}  // namespace blockbed
