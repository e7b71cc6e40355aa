// commit_top: the filter that a commit of lower layers puts over the topmost of them.
//
// Problem: while data moves from a layer into the one below, the layers below the filter show what
// no guest wrote; only from the filter upwards is the disk whole.
//
// Contract: requests go to the layer. Nothing is needed of it and nothing refused to others: it is
// the job that guards the chain.
// Source of the rules: the permissions that QEMU 7.2 shows for it. Threading: engine thread only.
#pragma once

#include "block/graph/driver.h"

namespace blockbed {

class CommitTop final : public Driver {
 public:
  static constexpr const char* kName = "commit_top";

  CommitTop(Node& node, Edge& below) : Driver(node), below_(below) {}

  std::string_view name() const override { return kName; }
  bool is_filter() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  // Nobody writes to a layer with others above it.
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;
  Task<Result<uint64_t>> length() override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  std::string exact_filename() const override;
  Task<void> close() override { co_return; }

 private:
  Edge& below_;
};

}  // namespace blockbed
