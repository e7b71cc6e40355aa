// snapshot-access: a past instant of a node as a node of its own.
//
// Problem: backup software reads an instant of a running disk over NBD, by a job, or by any other
// means that knows nodes only.
//
// Contract
//  - `file` is a copy-before-write filter: reads see the disk as it was when the filter came, as
//    far as that is kept (PointInTime). Over any other node requests fail with ENOTSUP, as does all
//    writing.
//  - A discard gives the space up in which the filter kept the range; it cannot be read again.
//  - No permission is needed of `file`, and none is refused to others: the instant does not change.
//  - With `internal-snapshot` it is an internal snapshot of the image that `file` is, in that
//    snapshot's size; never through a raw node that shows a part of it. An overlay or filter that
//    comes between the two later does not matter. As long as this node is there the snapshot cannot
//    be deleted, and what lies below the image stays: no link there changes, and nobody writes
//    (InternalSnapshots::read_snapshot).
// Source of the rules: what QEMU 7.2 shows; `internal-snapshot` is Blockbed's own. Threading:
// engine thread only.
#pragma once

#include <memory>

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/graph.h"
#include "block/graph/point_in_time.h"

namespace blockbed {

namespace schema {
struct InternalSnapshotChoice;
}  // namespace schema

// Such a node does not stand on the disk: who must have the disk for itself, or looks for the disks
// that there are, passes it over. Of an edge: the user is one.
bool reads_internal_snapshot(const Node& node);
bool reads_internal_snapshot(const Edge& edge);

class SnapshotAccess final : public Driver {
 public:
  static constexpr const char* kName = "snapshot-access";

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  SnapshotAccess(Node& node, Edge& file) : Driver(node), file_(file) {}

  std::string_view name() const override { return kName; }
  bool reads_internal_snapshot() const { return snapshot_ != nullptr; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;

  Task<Result<uint64_t>> length() override;
  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  std::string exact_filename() const override;
  void gather_filename_options(json::Object& options) const override;
  Task<void> close() override;

 private:
  Task<Expected<void>> choose(const schema::InternalSnapshotChoice& choice);
  // Null: there is none now.
  PointInTime* instant() const;

  Edge& file_;
  // With `internal-snapshot`: the node that has it.
  NodeRef keeper_;
  std::unique_ptr<PointInTime> snapshot_;
  json::Object chosen_;
};

}  // namespace blockbed
