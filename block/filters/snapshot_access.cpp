#include "block/filters/snapshot_access.h"

#include "block/graph/node.h"
#include "schema/block_core.h"

namespace blockbed {

Task<Expected<std::unique_ptr<Driver>>> SnapshotAccess::open(OpenContext& context,
                                                             const schema::BlockdevOptions&) {
  auto file = co_await context.open_child("file", ChildRole::kData | ChildRole::kPrimary);
  if (!file) co_return fail(std::move(file).error());
  co_return std::make_unique<SnapshotAccess>(context.node(), **file);
}

PointInTime* SnapshotAccess::instant() const {
  return dynamic_cast<PointInTime*>(&file_.node()->driver());
}

Task<Result<void>> SnapshotAccess::read(uint64_t offset, IoVector buffers, RequestFlags) {
  PointInTime* const at = instant();
  if (at == nullptr) co_return io_error(ENOTSUP);
  co_return co_await at->read_instant(offset, std::move(buffers));
}

Task<Result<void>> SnapshotAccess::write(uint64_t, IoVector, RequestFlags) {
  co_return io_error(ENOTSUP);
}

Task<Result<void>> SnapshotAccess::discard(uint64_t offset, uint64_t length) {
  PointInTime* const at = instant();
  if (at == nullptr) co_return io_error(ENOTSUP);
  co_return co_await at->discard_instant(offset, length);
}

Task<Result<BlockStatus>> SnapshotAccess::block_status(uint64_t offset, uint64_t length,
                                                       bool want_zero) {
  PointInTime* const at = instant();
  if (at == nullptr) co_return io_error(ENOTSUP);
  co_return co_await at->instant_status(offset, length, want_zero);
}

Task<Result<uint64_t>> SnapshotAccess::length() { co_return file_.node()->length(); }

PermissionPair SnapshotAccess::child_permissions(const Edge*, ChildRoles, PermissionPair,
                                                 bool) const {
  return {};
}

std::string SnapshotAccess::exact_filename() const { return file_.node()->filename(); }

Task<void> SnapshotAccess::close() { co_return; }

}  // namespace blockbed
