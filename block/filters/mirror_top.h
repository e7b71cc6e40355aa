// mirror_top: the filter that a mirror, or an active commit, puts over its source.
//
// Problem: the job must know of every write to the disk, and in the blocking mode stand in its way;
// and while data is written into a backing file of the disk, that file shows what no guest wrote.
//
// Contract
//  - Requests go to the disk, or are carried out on both sides by the MirrorCopy. What changes on
//    the disk is told to it, also by those who write below the filter, but for copies to both
//    sides. All that from set_copy() on until it is taken away.
//  - over_target: what the job writes to lies below the disk. Then nothing is promised about what
//    lies below the filter, and others may write there.
// Source of the rules: the permissions that QEMU 7.2 shows for it. Threading: engine thread only.
#pragma once

#include "block/filters/mirror_copy.h"
#include "block/graph/driver.h"
#include "block/graph/node.h"

namespace blockbed {

class MirrorTop final : public Driver, public WriteListener {
 public:
  static constexpr const char* kName = "mirror_top";

  MirrorTop(Node& node, Edge& below, bool over_target)
      : Driver(node), below_(below), over_target_(over_target) {}
  // The driver of a node that is known to be such a filter.
  static MirrorTop& of(Node& node);

  Edge& below() const { return below_; }
  void set_copy(MirrorCopy* copy);
  // Null: nobody wants to know of writes.
  const MirrorCopy* copy() const { return copy_; }

  std::string_view name() const override { return kName; }
  bool is_filter() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;

  bool honours_fua_write() const override { return true; }
  bool honours_fua_zero() const override { return true; }
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }
  bool follows_changes() const override { return copy_ != nullptr; }

  Task<Result<uint64_t>> length() override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  DriverInfo info() const override;
  // The filter goes by the name of the disk.
  std::string exact_filename() const override;
  bool has_zero_init() const override;

  Task<void> close() override { co_return; }

  void node_written(uint64_t offset, uint64_t length) override;

 private:
  bool writes_to_both() const { return copy_ != nullptr && copy_->writes_to_both(); }

  Edge& below_;
  const bool over_target_;
  MirrorCopy* copy_ = nullptr;
  // The disk, while there is a copy.
  NodeRef disk_;
};

}  // namespace blockbed
