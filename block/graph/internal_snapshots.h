// InternalSnapshots: snapshots that an image keeps within itself.
//
// Problem: commands, monitors and machine states name a disk; which node of its chain keeps the
// snapshots, and how, is the format's business.
//
// Contract: a driver that keeps snapshots implements this and returns itself from
// Driver::internal_snapshots(). create, apply and remove drain the node for themselves. Ids and
// names are compared as a whole. Units: bytes. Errors: errno of what cannot be listed or made;
// texts of QEMU for clients. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/point_in_time.h"
#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Node;

struct InternalSnapshot {
  // Given by the image when the snapshot is made.
  std::string id;
  std::string name;
  uint64_t vm_state_size = 0;
  // UTC.
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  // The guest's time.
  uint64_t vm_clock_ns = 0;
  std::optional<uint64_t> icount;
};

class InternalSnapshots {
 public:
  virtual ~InternalSnapshots() = default;

  // Oldest first. ENOTSUP: this image cannot have any.
  virtual Result<std::vector<InternalSnapshot>> list() const = 0;
  virtual Task<Result<void>> create(InternalSnapshot& snapshot) = 0;
  virtual Task<Expected<void>> apply(std::string id) = 0;
  // Refused while somebody reads it: "Snapshot 'x' is being read by node 'y'".
  virtual Task<Expected<void>> remove(std::string id) = 0;
  // The disk as it was, in the size that it had, while the image goes on in every way; several at
  // once. `reader` is the name of the node that reads. What lies below the image stays as it is
  // meanwhile: the permissions of the image's links are to be checked again when a reader has come
  // or gone. ENOENT's text when there is no such id; who has frozen those links refuses a reader.
  virtual Task<Expected<std::unique_ptr<PointInTime>>> read_snapshot(std::string id,
                                                                     std::string reader) = 0;

  // The state of the machine beside the disk: the next create() takes it into the snapshot, apply()
  // brings it back.
  virtual Task<Result<void>> write_vm_state(uint64_t position, IoVector buffers) = 0;
  virtual Task<Result<void>> read_vm_state(uint64_t position, IoVector buffers) = 0;
};

// The node, or the one that a filter or raw format shows; null when neither keeps snapshots.
Node* node_with_internal_snapshots(Node& node);
InternalSnapshots* internal_snapshots_of(const Node& node);
// It keeps snapshots, and both it and the node that has them may be written.
bool can_take_internal_snapshots(const Node& node);
// Requests to the state of the machine that wait like others while the node is drained for. They go
// from primary child to primary child; ENOTSUP where none keeps snapshots.
Task<Result<void>> write_vm_state(Node& node, uint64_t position, IoVector buffers);
Task<Result<void>> read_vm_state(Node& node, uint64_t position, IoVector buffers);
// ENOTSUP as well where there is nothing that keeps snapshots.
Result<std::vector<InternalSnapshot>> list_internal_snapshots(const Node& node);
// By id and name, whichever are given.
const InternalSnapshot* find_internal_snapshot(const std::vector<InternalSnapshot>& snapshots,
                                               std::optional<std::string_view> id,
                                               std::optional<std::string_view> name);

}  // namespace blockbed
