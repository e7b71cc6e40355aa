#include "block/filters/commit_top.h"

#include "block/graph/node.h"

namespace blockbed {

Task<Result<void>> CommitTop::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return below_.read(offset, std::move(buffers), flags);
}

Task<Result<void>> CommitTop::write(uint64_t, IoVector, RequestFlags) { co_return io_error(EPERM); }

Task<Result<BlockStatus>> CommitTop::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = offset;
  status.file = below_.node();
  status.passes_through = true;
  co_return status;
}

Task<Result<uint64_t>> CommitTop::length() { co_return below_.node()->length(); }

PermissionPair CommitTop::child_permissions(const Edge*, ChildRoles, PermissionPair, bool) const {
  return {Permissions::none(), Permissions::all()};
}

std::string CommitTop::exact_filename() const { return below_.node()->filename(); }

}  // namespace blockbed
