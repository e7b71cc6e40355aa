#include "block/filters/snapshot_access.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/graph/graph_change.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/node.h"
#include "schema/block_core.h"

namespace blockbed {

bool reads_internal_snapshot(const Node& node) {
  if (!node.is_open()) return false;
  const auto* const access = dynamic_cast<const SnapshotAccess*>(&node.driver());
  return access != nullptr && access->reads_internal_snapshot();
}

bool reads_internal_snapshot(const Edge& edge) {
  const Node* const user = edge.parent().as_node();
  return user != nullptr && reads_internal_snapshot(*user);
}

Task<Expected<std::unique_ptr<Driver>>> SnapshotAccess::open(
    OpenContext& context, const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsSnapshotAccess>(options.u);
  // What holds the data of an internal snapshot is the image's own: no snapshot is made through it.
  ChildRoles roles = ChildRole::kPrimary;
  if (!own.internal_snapshot) roles = ChildRole::kData | ChildRole::kPrimary;
  // It is in nobody's way, from the beginning on.
  auto file = co_await context.open_child("file", roles, PermissionPair());
  if (!file) co_return fail(std::move(file).error());
  auto driver = std::make_unique<SnapshotAccess>(context.node(), **file);
  if (own.internal_snapshot) BB_CO_TRY(co_await driver->choose(*own.internal_snapshot));
  co_return driver;
}

Task<Expected<void>> SnapshotAccess::choose(const schema::InternalSnapshotChoice& choice) {
  if (!choice.id && !choice.name) co_return fail("Name or id must be provided");
  Node& below = *file_.node();
  Node* const keeper = node_with_internal_snapshots(below);
  const auto list = list_internal_snapshots(below);
  if (keeper == nullptr || !list) {
    co_return fail(
        fmt::format("Block format '{}' used by device '{}' does not support internal snapshots",
                    below.driver().name(), below.name()));
  }
  const InternalSnapshot* const found = find_internal_snapshot(*list, choice.id, choice.name);
  if (found == nullptr) {
    co_return fail(fmt::format("Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                               choice.id.value_or("null"), choice.name.value_or("null"),
                               below.name()));
  }
  // A snapshot is all of the disk, in a size of its own: nobody says which part of it would show.
  for (const Node* at = &below; at != keeper; at = at->primary_node()) {
    if (!at->driver().shows_part_of_child()) continue;
    co_return fail(fmt::format(
        "Node '{}' shows a part of its file only, and snapshots of '{}' cannot be read through it",
        at->name(), keeper->name()));
  }
  auto opened =
      co_await keeper->driver().internal_snapshots()->read_snapshot(found->id, node().name());
  if (!opened) co_return fail(std::move(opened).error());
  keeper_ = NodeRef(*keeper);
  snapshot_ = std::move(*opened);
  chosen_ = std::move(to_json(choice).as_object());
  co_return Expected<void>();
}

PointInTime* SnapshotAccess::instant() const {
  if (snapshot_ == nullptr) return dynamic_cast<PointInTime*>(&file_.node()->driver());
  // Below may now be a copy, which has no snapshots; and who is not above the image is not stopped
  // when it is drained.
  return reaches(*file_.node(), *keeper_) ? snapshot_.get() : nullptr;
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

Task<Result<uint64_t>> SnapshotAccess::length() {
  if (snapshot_ != nullptr) co_return snapshot_->instant_length();
  // An instant stays as long as it was, whatever becomes of the disk.
  const PointInTime* const at = instant();
  co_return at != nullptr ? at->instant_length() : file_.node()->length();
}

PermissionPair SnapshotAccess::child_permissions(const Edge*, ChildRoles, PermissionPair,
                                                 bool) const {
  return {};
}

std::string SnapshotAccess::exact_filename() const {
  return snapshot_ != nullptr ? "" : file_.node()->filename();
}

void SnapshotAccess::gather_filename_options(json::Object& options) const {
  if (snapshot_ != nullptr) options.set("internal-snapshot", chosen_);
}

Task<void> SnapshotAccess::close() {
  if (snapshot_ == nullptr) co_return;
  snapshot_.reset();
  {
    GraphChange change(node().graph());
    change.recheck(*keeper_);
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());  // less is forbidden now
    change.commit();
  }
  keeper_ = NodeRef();
}

}  // namespace blockbed
