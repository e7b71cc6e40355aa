#include "block/filters/mirror_top.h"

#include "block/graph/node.h"

namespace blockbed {

MirrorTop& MirrorTop::of(Node& node) {
  BB_ASSERT(node.driver().name() == kName);
  return static_cast<MirrorTop&>(node.driver());
}

void MirrorTop::set_copy(MirrorCopy* copy) {
  if (disk_) disk_->remove_write_listener(*this);
  copy_ = copy;
  disk_ = copy == nullptr ? NodeRef() : NodeRef(*below_.node());
  if (disk_) disk_->add_write_listener(*this);
}

// What goes to both sides at once leaves no difference.
void MirrorTop::node_written(uint64_t offset, uint64_t length) {
  if (!writes_to_both()) copy_->changed(offset, length);
}

// --- requests

Task<Result<void>> MirrorTop::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return below_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> MirrorTop::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (writes_to_both()) co_return co_await copy_->write(offset, std::move(buffers), flags);
  co_return co_await below_.write(offset, std::move(buffers), flags);
}

Task<Result<void>> MirrorTop::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  if (writes_to_both()) co_return co_await copy_->zero(offset, length, flags);
  co_return co_await below_.zero(offset, length, flags);
}

Task<Result<void>> MirrorTop::discard(uint64_t offset, uint64_t length) {
  if (writes_to_both()) co_return co_await copy_->discard(offset, length);
  co_return co_await below_.discard(offset, length);
}

Task<Result<BlockStatus>> MirrorTop::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = below_.node();
  status.passes_through = true;
  co_return status;
}

// --- size, permissions, facts

Task<Result<uint64_t>> MirrorTop::length() { co_return below_.node()->length(); }

PermissionPair MirrorTop::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                            bool writable) const {
  PermissionPair result = default_child_permissions(node(), roles, parent, writable);
  if (over_target_) {
    result.needs = result.needs - Permission::kConsistentRead;
    result.shares |= Permission::kWrite;
  }
  return result;
}

std::string MirrorTop::exact_filename() const { return below_.node()->filename(); }
DriverInfo MirrorTop::info() const { return below_.node()->driver().info(); }
bool MirrorTop::has_zero_init() const { return below_.node()->driver().has_zero_init(); }

}  // namespace blockbed
