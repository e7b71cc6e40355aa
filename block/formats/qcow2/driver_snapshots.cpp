// Qcow2Driver: internal snapshots.
#include <algorithm>

#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/snapshot_reader.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"

namespace blockbed::qcow2 {

namespace {

std::optional<std::size_t> position_of(const std::vector<Snapshot>& snapshots,
                                       const std::string& id) {
  const auto found = std::ranges::find(snapshots, id, &Snapshot::id);
  if (found == snapshots.end()) return std::nullopt;
  return static_cast<std::size_t>(found - snapshots.begin());
}

}  // namespace

Result<std::vector<InternalSnapshot>> Qcow2Driver::list() const {
  if (image_->geometry().external_data) return io_error(ENOTSUP);
  std::vector<InternalSnapshot> list;
  list.reserve(image_->snapshots().size());
  for (const Snapshot& from : image_->snapshots()) {
    InternalSnapshot snapshot;
    snapshot.id = from.id;
    snapshot.name = from.name;
    snapshot.vm_state_size = from.vm_state_size;
    snapshot.seconds = from.seconds;
    snapshot.nanoseconds = from.nanoseconds;
    snapshot.vm_clock_ns = from.vm_clock_ns;
    snapshot.icount = from.icount;
    list.push_back(std::move(snapshot));
  }
  return list;
}

Task<Result<void>> Qcow2Driver::create(InternalSnapshot& snapshot) {
  if (!node().writable()) co_return io_error(EPERM);
  Snapshot entry;
  entry.name = snapshot.name;
  entry.vm_state_size = snapshot.vm_state_size;
  entry.seconds = static_cast<uint32_t>(snapshot.seconds);
  entry.nanoseconds = static_cast<uint32_t>(snapshot.nanoseconds);
  entry.vm_clock_ns = snapshot.vm_clock_ns;
  entry.icount = snapshot.icount;
  DrainedSection drained = co_await drain(node());
  auto id = co_await image_->create_snapshot(std::move(entry));
  if (!id) co_return io_error(id.error());
  snapshot.id = std::move(*id);
  co_return Result<void>();
}

Task<Expected<void>> Qcow2Driver::apply(std::string id) {
  const auto at = position_of(image_->snapshots(), id);
  if (!at) co_return fail(strerror_text(ENOENT));
  if (!node().writable()) co_return fail(strerror_text(EPERM));
  // They would have to know all that is different from now on.
  if (is_followed(node())) co_return fail("Device has active dirty bitmaps");
  DrainedSection drained = co_await drain(node());
  auto done = co_await image_->apply_snapshot(*at);
  node().set_length(image_->length());
  co_return done;
}

Task<Expected<void>> Qcow2Driver::remove(std::string id) {
  const auto at = position_of(image_->snapshots(), id);
  if (!at) co_return fail("Can't find the snapshot");
  if (!node().writable()) {
    // In the words of the first write that cannot be.
    co_return fail("Failed to remove snapshot from snapshot list: Operation not permitted");
  }
  for (const SnapshotReader* reader : readers_) {
    if (reader->id() == id) co_return fail(reader->describe());
  }
  DrainedSection drained = co_await drain(node());
  co_return co_await image_->delete_snapshot(*at);
}

Task<Expected<std::unique_ptr<PointInTime>>> Qcow2Driver::read_snapshot(std::string id,
                                                                        std::string reader) {
  const auto at = position_of(image_->snapshots(), id);
  if (!at) co_return fail(strerror_text(ENOENT));
  const Snapshot& snapshot = image_->snapshots()[*at];
  BB_CO_TRY(check_l1(image_->geometry(), snapshot));
  Header header = image_->header();
  header.size = snapshot.disk_size.value_or(header.size);
  if (header.size > kMaxLength) co_return fail(strerror_text(EFBIG));
  header.l1_offset = snapshot.l1_offset;
  header.l1_size = snapshot.l1_size;
  header.snapshot_count = 0;
  MetadataOptions options = image_->metadata().options();
  options.writable = false;
  auto made = std::make_unique<SnapshotReader>(*this, snapshot, std::move(reader));
  BB_CO_TRY(made->keep_backing());
  auto image = std::make_unique<Image>(node().env(), *file_, /*data=*/nullptr, made->backing(),
                                       std::move(header), options);
  image->metadata().on_corruption = [this](const Corruption& c) { corrupted(c); };
  BB_CO_TRY(co_await made->open(std::move(image)));
  co_return made;
}

PermissionPair Qcow2Driver::child_permissions(const Edge* edge, ChildRoles roles,
                                              PermissionPair parent, bool writable) const {
  if (roles.has(ChildRole::kCow) && std::ranges::any_of(readers_, &SnapshotReader::reads_backing)) {
    parent.needs |= Permission::kConsistentRead;
    parent.shares = parent.shares - Permission::kWrite;
  }
  // What the last cluster holds behind the old end is zeroed when the disk grows.
  if (roles.has(ChildRole::kData) && writable && parent.needs.has(Permission::kResize)) {
    parent.needs |= Permission::kWrite;
  }
  return Driver::child_permissions(edge, roles, parent, writable);
}

Task<Expected<void>> Qcow2Driver::show_snapshot(std::optional<std::string> id,
                                                std::optional<std::string> name) {
  if (node().writable()) co_return fail("Device is not readonly");
  const std::vector<Snapshot>& all = image_->snapshots();
  const auto found = std::ranges::find_if(all, [&](const Snapshot& snapshot) {
    return (!id || snapshot.id == *id) && (!name || snapshot.name == *name);
  });
  if (found == all.end()) co_return fail("Can't find snapshot");
  co_return co_await image_->show_snapshot(static_cast<std::size_t>(found - all.begin()));
}

Task<Result<void>> Qcow2Driver::write_vm_state(uint64_t position, IoVector buffers) {
  if (!node().writable()) co_return io_error(EPERM);
  co_return co_await image_->write_vm_state(position, std::move(buffers));
}

Task<Result<void>> Qcow2Driver::read_vm_state(uint64_t position, IoVector buffers) {
  co_return co_await image_->read_vm_state(position, std::move(buffers));
}

}  // namespace blockbed::qcow2
