#include "block/graph/driver.h"

#include <fmt/format.h>

#include "block/graph/node.h"
#include "block/graph/shown_name.h"
#include "schema/block_core.h"

namespace blockbed {

Task<Result<void>> Driver::zero(uint64_t, uint64_t, RequestFlags) { co_return io_error(ENOTSUP); }
Task<Result<void>> Driver::discard(uint64_t, uint64_t) { co_return io_error(ENOTSUP); }
Task<Result<void>> Driver::write_compressed(uint64_t, IoVector) { co_return io_error(ENOTSUP); }
Task<Result<void>> Driver::flush_to_children() { co_return Result<void>(); }
Task<Result<void>> Driver::flush_to_disk() { co_return Result<void>(); }

Task<void> Driver::expect_flush() { co_return; }

Task<Result<BlockStatus>> Driver::block_status(uint64_t offset, uint64_t length, bool) {
  // A driver that cannot tell has everything as data.
  BlockStatus status;
  status.length = length;
  status.data = true;
  status.allocated = true;
  if (is_protocol()) {
    status.offset = offset;
    status.file = &node_;
  }
  co_return status;
}

Task<Result<void>> Driver::copy_range_to(uint64_t, uint64_t, Edge&, uint64_t, RequestFlags) {
  co_return io_error(ENOTSUP);
}
Task<Result<void>> Driver::copy_range_from(File&, uint64_t, uint64_t, uint64_t, RequestFlags) {
  co_return io_error(ENOTSUP);
}

Task<Expected<void>> Driver::truncate(uint64_t, TruncateOptions) {
  co_return fail("Image format driver does not support resize");
}

void Driver::child_resized(Edge& edge) {
  if (&edge == node_.filtered_edge()) node_.set_length(edge.node()->length());
}

Task<Result<std::optional<uint64_t>>> Driver::allocated_size() {
  co_return std::optional<uint64_t>();
}

namespace {

PermissionPair filter_permissions(PermissionPair parent) {
  return {parent.needs & kPassedThrough, parent.shares | (Permissions::all() - kPassedThrough)};
}

PermissionPair backing_permissions(const Node& node, PermissionPair parent) {
  PermissionPair result;
  result.needs = parent.needs & Permission::kConsistentRead;
  // A backing file that changes under its overlay changes what the guest sees; whoever allows that
  // to its own parents may allow it here.
  result.shares = Permission::kConsistentRead | Permissions(Permission::kWriteUnchanged);
  if (parent.shares.has(Permission::kWrite)) {
    result.shares |= Permission::kWrite | Permission::kResize;
  }
  if (node.flags().inactive) result.shares |= Permission::kWrite | Permission::kResize;
  return result;
}

PermissionPair storage_permissions(const Node& node, bool writable, ChildRoles roles,
                                   PermissionPair parent) {
  PermissionPair result = filter_permissions(parent);
  if (roles.has(ChildRole::kMetadata)) {
    // Tables must be read to find anything, and may change though the guest writes nothing.
    if (writable) result.needs |= Permission::kWrite | Permission::kResize;
    result.needs |= Permission::kConsistentRead;
    result.shares = result.shares - (Permission::kWrite | Permission::kResize);
  }
  if (roles.has(ChildRole::kData)) {
    // A write that changes nothing for the guest may still allocate here, and an allocation may
    // grow the file.
    if (result.needs.has(Permission::kWriteUnchanged)) result.needs |= Permission::kWrite;
    if (result.needs.has(Permission::kWrite)) result.needs |= Permission::kResize;
    result.shares = result.shares - Permission::kResize;
  }
  if (node.flags().inactive) result.shares |= Permission::kWrite | Permission::kResize;
  return result;
}

}  // namespace

PermissionPair default_child_permissions(const Node& node, ChildRoles roles, PermissionPair parent,
                                         bool writable) {
  if (roles.has(ChildRole::kFiltered)) return filter_permissions(parent);
  if (roles.has(ChildRole::kCow)) return backing_permissions(node, parent);
  return storage_permissions(node, writable, roles, parent);
}

PermissionPair Driver::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                         bool writable) const {
  return default_child_permissions(node_, roles, parent, writable);
}

Expected<void> Driver::prepare_permissions(Permissions, Permissions) { return {}; }
void Driver::commit_permissions(Permissions, Permissions) {}
void Driver::abort_permissions() {}

void Driver::refresh_limits(BlockLimits&) const {}
std::optional<schema::ImageInfoSpecific> Driver::specific_info() const { return std::nullopt; }

Task<Expected<void>> Driver::change_backing_file(std::string, std::string, bool) {
  co_return fail(fmt::format("The image format '{}' has no backing files", name()));
}

void Driver::gather_filename_options(json::Object&) const {}

Expected<std::string> Driver::directory() const {
  if (Node* primary = node_.primary_node()) return primary->driver().directory();
  if (std::string file = exact_filename(); !file.empty()) {
    const std::size_t slash = file.rfind('/');
    return slash == std::string::npos ? std::string() : file.substr(0, slash + 1);
  }
  return fail(
      fmt::format("Cannot generate a base directory with the extended option '{}'", name()));
}

Task<Result<void>> Driver::make_empty() { co_return io_error(ENOTSUP); }

Task<Expected<void>> Driver::add_child(Node&) {
  co_return fail(fmt::format("The node {} does not support adding a child", shown_name(node_)));
}
Task<Expected<void>> Driver::remove_child(Edge&) {
  co_return fail(fmt::format("The node {} does not support removing a child", shown_name(node_)));
}

Expected<void> Driver::check_options(const ReopenState&) const { return {}; }
Task<Expected<void>> Driver::reopen_prepare(const ReopenState&) { co_return Expected<void>(); }
Task<Expected<void>> Driver::repair() { co_return Expected<void>(); }
Task<void> Driver::reopen_finish() { co_return; }

}  // namespace blockbed
