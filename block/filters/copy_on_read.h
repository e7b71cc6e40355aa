// copy-on-read: a filter whose reads are kept in the image below it.
//
// Problem: an overlay over a slow or distant backing file should hold what was read once.
//
// Contract
//  - A read makes the child keep what it had to get from its own backing files (keep_reads.cpp),
//    whole clusters of it. It fails when it cannot be kept.
//  - `bottom`: what comes from below that node of the child's chain is not kept. The links down to
//    it are frozen as long as the filter is there.
//  - Children that have no backing file keep nothing but, in a format, that there are zeroes.
// Errors: texts of QEMU 7.2 (which never returns when `bottom` is no part of the chain).
// Threading: engine thread only.
#pragma once

#include <memory>

#include "block/filters/pass_through.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph.h"

namespace blockbed {

class CopyOnRead final : public PassThroughFilter {
 public:
  static constexpr const char* kName = "copy-on-read";
  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  // `bottom` may be null; `frozen` are the links down to it.
  CopyOnRead(Node& node, Edge& file, NodeRef bottom, FrozenChain frozen)
      : PassThroughFilter(node, file), bottom_(std::move(bottom)), frozen_(std::move(frozen)) {}

  std::string_view name() const override { return kName; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers) override;
  bool can_write_compressed() const override;
  bool honours_copy_on_read() const override { return true; }

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  Task<void> close() override;

 private:
  NodeRef bottom_;
  FrozenChain frozen_;
};

}  // namespace blockbed
