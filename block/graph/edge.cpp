#include "block/graph/edge.h"

#include <cerrno>

#include "block/graph/node.h"

namespace blockbed {

namespace {

Task<Result<void>> refused(int error) { co_return io_error(error); }

}  // namespace

Edge::~Edge() { BB_ASSERT(node_ == nullptr); }

Task<Result<void>> Edge::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  return node_->read(offset, std::move(buffers), flags);
}

bool Edge::ends_in_time(uint64_t offset, uint64_t length) const {
  // A root looks itself (Backend::check).
  if (parent_.as_node() == nullptr || permissions_.needs.has(Permission::kResize)) return true;
  const uint64_t end = node_->rounded_length();
  return offset <= end && length <= end - offset;
}

Task<Result<void>> Edge::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (!ends_in_time(offset, buffers.size())) return refused(EIO);
  BB_ASSERT(permissions_.needs.has(Permission::kWrite) ||
            (flags.write_unchanged && permissions_.needs.has(Permission::kWriteUnchanged)));
  return node_->write(offset, std::move(buffers), flags);
}

Task<Result<void>> Edge::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  if (!ends_in_time(offset, length)) return refused(EIO);
  BB_ASSERT(permissions_.needs.has(Permission::kWrite) ||
            (flags.write_unchanged && permissions_.needs.has(Permission::kWriteUnchanged)));
  // Who stands on top says itself whether space is given back; below that each node does.
  if (parent_.as_node() != nullptr && !node_->flags().unmap) flags.may_unmap = false;
  return node_->zero(offset, length, flags);
}

Task<Result<void>> Edge::discard(uint64_t offset, uint64_t length) {
  BB_ASSERT(permissions_.needs.has(Permission::kWrite));
  return node_->discard(offset, length);
}

Task<Result<void>> Edge::flush() { return node_->flush(); }

Task<Result<void>> Edge::copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                       uint64_t target_offset, RequestFlags flags) {
  return node_->copy_range_to(offset, length, target, target_offset, flags);
}

Task<Result<void>> Edge::copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                         uint64_t length, RequestFlags flags) {
  if (!ends_in_time(offset, length)) return refused(EIO);
  BB_ASSERT(permissions_.needs.has(Permission::kWrite));
  return node_->copy_range_from(source, source_offset, offset, length, flags);
}

Task<Expected<void>> Edge::truncate(uint64_t length, TruncateOptions options) {
  BB_ASSERT(permissions_.needs.has(Permission::kResize));
  return node_->truncate(length, options);
}

Task<Result<void>> Edge::read(uint64_t offset, void* data, std::size_t length) {
  return node_->read(offset, IoVector(data, length), {});
}

Task<Result<void>> Edge::write(uint64_t offset, const void* data, std::size_t length,
                               RequestFlags flags) {
  return write(offset, IoVector(const_cast<void*>(data), length), flags);
}

}  // namespace blockbed
