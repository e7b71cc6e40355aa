#include "block/graph/internal_snapshots.h"

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/request_scope.h"

namespace blockbed {

Node* node_with_internal_snapshots(Node& node) {
  Node* at = &node;
  while (at != nullptr) {
    if (at->driver().internal_snapshots() != nullptr) return at;
    // Through a node that has one child with data and nothing of its own: as QEMU falls back.
    Node* below = nullptr;
    for (const auto& edge : at->children()) {
      const ChildRoles roles = edge->roles();
      if (!roles.has(ChildRole::kData) && !roles.has(ChildRole::kMetadata) &&
          !roles.has(ChildRole::kFiltered)) {
        continue;
      }
      if (below != nullptr || !roles.has(ChildRole::kPrimary)) return nullptr;
      below = edge->node();
    }
    at = below;
  }
  return nullptr;
}

InternalSnapshots* internal_snapshots_of(const Node& node) {
  const Node* const found = node_with_internal_snapshots(const_cast<Node&>(node));
  return found == nullptr ? nullptr : found->driver().internal_snapshots();
}

bool can_take_internal_snapshots(const Node& node) {
  const Node* const keeper = node_with_internal_snapshots(const_cast<Node&>(node));
  return node.writable() && keeper != nullptr && keeper->writable();
}

namespace {

using VmStateRequest = Task<Result<void>> (InternalSnapshots::*)(uint64_t, IoVector);

Task<Result<void>> send(Node& node, TrackedRequest::Kind kind, VmStateRequest what,
                        uint64_t position, IoVector buffers) {
  Node* keeper = &node;
  while (keeper->driver().internal_snapshots() == nullptr) {
    keeper = keeper->primary_node();
    if (keeper == nullptr) co_return io_error(ENOTSUP);
  }
  // It lies beside the disk: no range of that is in its way.
  RequestScope request(*keeper, kind, 0, 0);
  co_return co_await (keeper->driver().internal_snapshots()->*what)(position, std::move(buffers));
}

}  // namespace

Task<Result<void>> write_vm_state(Node& node, uint64_t position, IoVector buffers) {
  return send(node, TrackedRequest::Kind::kWrite, &InternalSnapshots::write_vm_state, position,
              std::move(buffers));
}

Task<Result<void>> read_vm_state(Node& node, uint64_t position, IoVector buffers) {
  return send(node, TrackedRequest::Kind::kRead, &InternalSnapshots::read_vm_state, position,
              std::move(buffers));
}

Result<std::vector<InternalSnapshot>> list_internal_snapshots(const Node& node) {
  const InternalSnapshots* snapshots = internal_snapshots_of(node);
  if (snapshots == nullptr) return io_error(ENOTSUP);
  return snapshots->list();
}

const InternalSnapshot* find_internal_snapshot(const std::vector<InternalSnapshot>& snapshots,
                                               std::optional<std::string_view> id,
                                               std::optional<std::string_view> name) {
  for (const InternalSnapshot& snapshot : snapshots) {
    if ((!id || snapshot.id == *id) && (!name || snapshot.name == *name)) return &snapshot;
  }
  return nullptr;
}

}  // namespace blockbed
