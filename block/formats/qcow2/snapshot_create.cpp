// Image: making an internal snapshot, and what all operations on snapshots share. The order is that
// of order_of_writes.md, "snapshots".
#include <algorithm>
#include <utility>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/snapshot_references.h"

namespace blockbed::qcow2 {

Task<Result<void>> Image::protect_snapshots() {
  OverlapMap& map = metadata_.overlap_map();
  if (header().snapshot_count > 0) {
    map.add(overlap::kSnapshotTable, header().snapshots_offset, snapshots_.bytes);
  }
  for (const Snapshot& snapshot : snapshots()) {
    if (geometry().in_cluster(snapshot.l1_offset) != 0 || snapshot.l1_size > kMaxL1Bytes / 8) {
      continue;
    }
    map.add(overlap::kInactiveL1, snapshot.l1_offset, uint64_t{snapshot.l1_size} * 8);
    if ((metadata_.options().overlap_checks & overlap::kInactiveL2) == 0) continue;
    auto tables = co_await read_l1(metadata_, snapshot);
    if (!tables) co_return io_error(tables.error());
    for (const uint64_t table : *tables) {
      if (table != 0) map.add(overlap::kInactiveL2, table, geometry().cluster_size);
    }
  }
  co_return Result<void>();
}

Task<void> Image::adopt_snapshots(std::vector<Snapshot> snapshots, uint64_t table_bytes) {
  snapshots_.snapshots = std::move(snapshots);
  snapshots_.bytes = table_bytes;
  metadata_.protect_tables();
  // The file was read a moment ago; if it cannot be now, those tables are not protected.
  (void)co_await protect_snapshots();
}

Task<Result<Image::NewTable>> Image::write_snapshot_table(const std::vector<Snapshot>& snapshots) {
  NewTable table;
  const std::vector<std::byte> bytes = serialise_snapshots(snapshots, length());
  if (bytes.size() > kMaxSnapshotTableBytes) co_return io_error(EFBIG);
  if (bytes.empty()) co_return table;
  auto room = co_await metadata_.allocate(geometry().clusters(bytes.size()), "snapshot table",
                                          Metadata::FirstWrite{0, bytes.size()});
  if (!room) co_return io_error(room.error());
  table.host = room->host;
  table.bytes = bytes.size();
  Buffer content = Buffer::zeroed(align_up(bytes.size(), kSectorSize));
  std::ranges::copy(bytes, content.data());
  if (auto written = co_await metadata_.file().write(table.host, content.io()); !written) {
    (void)co_await metadata_.give_back(table.host, table.bytes);
    co_return io_error(written.error());
  }
  co_return table;
}

Task<Result<Image::NewTable>> Image::write_l1(const std::vector<uint64_t>& entries) {
  NewTable table;
  if (entries.empty()) co_return table;
  table.bytes = entries.size() * 8;
  auto room = co_await metadata_.allocate(geometry().clusters(table.bytes), "L1 table",
                                          Metadata::FirstWrite{0, table.bytes});
  if (!room) co_return io_error(room.error());
  table.host = room->host;
  const Buffer content = ResidentTable::to_file(entries, align_up(table.bytes, kSectorSize));
  if (auto written = co_await metadata_.file().write(table.host, content.io()); !written) {
    (void)co_await metadata_.give_back(table.host, table.bytes);
    co_return io_error(written.error());
  }
  co_return table;
}

namespace {

// The tables of the disk, shared with a snapshot that is being made.
struct SharedTables {
  std::vector<uint64_t> snapshot;
  std::vector<uint64_t> active;
  // L2 tables that were copied because their entries said COPIED.
  std::vector<uint64_t> replaced;
  // Of a VM state that nobody asked to keep: left behind by a snapshot that was applied.
  std::vector<uint64_t> dropped;
  // How many entries of the old L1 table have their clusters counted.
  std::size_t counted = 0;
};

// One table of the disk: its clusters are counted once more, and it is where both may refer to it.
Task<Result<void>> share_table(Metadata& metadata, std::size_t index, Buffer& table,
                               SharedTables& shared, AddedReferences& added) {
  const Geometry& g = metadata.geometry();
  const uint64_t host = metadata.l1()[index] & kOffsetMask;
  BB_CO_TRY(co_await read_l2_table(metadata, host, table));
  BB_CO_TRY(co_await count_entries(metadata, table, host, Counting::kAdd));
  shared.counted = index + 1;
  uint64_t common = host;
  if (clear_copied(g, table)) {
    // The old table stays as it is: until the switch it is the active one, and right.
    auto room = co_await metadata.allocate(1, "L2 table");
    if (!room) co_return io_error(room.error());
    common = room->host;
    added.add(common, g.cluster_size);
    BB_CO_TRY(co_await metadata.file().write(common, table.io()));
    shared.replaced.push_back(host);
  }
  BB_CO_TRY(co_await metadata.add_refcounts(common, g.cluster_size, 1));
  added.add(common, g.cluster_size);
  shared.snapshot[index] = common;
  shared.active[index] = common;
  co_return Result<void>();
}

Task<Result<void>> share_tables(Metadata& metadata, std::size_t disk_entries, bool keep_vm_state,
                                SharedTables& shared, AddedReferences& added) {
  const std::size_t entries = metadata.l1().size();
  shared.snapshot.assign(entries, 0);
  shared.active.assign(entries, 0);
  Buffer table;
  for (std::size_t i = 0; i < entries; ++i) {
    const uint64_t host = metadata.l1()[i] & kOffsetMask;
    if (host == 0) continue;
    if (i >= disk_entries) {
      // The snapshot has the VM state from now on.
      if (keep_vm_state) {
        shared.snapshot[i] = host;
      } else {
        shared.dropped.push_back(host);
      }
      continue;
    }
    BB_CO_TRY(co_await share_table(metadata, i, table, shared, added));
  }
  co_return Result<void>();
}

// The clusters of the first `counted` tables, in the order of the L1 table.
Task<void> uncount(Metadata& metadata, std::size_t counted, std::size_t disk_entries) {
  if (metadata.header_unsure()) co_return;
  const std::vector<uint64_t> l1(metadata.l1().entries().begin(),
                                 metadata.l1().entries().begin() +
                                     static_cast<std::ptrdiff_t>(std::min(counted, disk_entries)));
  (void)co_await count_l1(metadata, l1, Counting::kUndo, false);
}

}  // namespace

Task<Result<std::string>> Image::create_snapshot(Snapshot snapshot) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  if (geometry().external_data) co_return io_error(ENOTSUP);
  if (snapshots().size() >= kMaxSnapshots) co_return io_error(EFBIG);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  MutexGuard lock = co_await metadata_.lock();
  BB_ASSERT(metadata_.idle());
  BB_CO_TRY(co_await metadata_.sync());

  snapshot.id = next_snapshot_id(snapshots());
  snapshot.disk_size = length();
  snapshot.name.resize(std::min(snapshot.name.size(), kMaxSnapshotNameBytes));
  const std::size_t disk_entries = geometry().l1_entries(length());
  const bool keep_vm_state = snapshot.vm_state_size > 0;
  SharedTables shared;
  AddedReferences added(metadata_);
  NewTable own;
  NewTable active;
  NewTable list;
  std::vector<Snapshot> snapshots = snapshots_.snapshots;
  auto prepare = [&]() -> Task<Result<void>> {
    BB_CO_TRY(co_await share_tables(metadata_, disk_entries, keep_vm_state, shared, added));
    auto made = co_await write_l1(shared.snapshot);
    if (!made) co_return io_error(made.error());
    own = *made;
    if (own.bytes > 0) added.add(own.host, own.bytes);
    if (shared.active != metadata_.l1().entries()) {
      made = co_await write_l1(shared.active);
      if (!made) co_return io_error(made.error());
      active = *made;
      added.add(active.host, active.bytes);
    }
    snapshot.l1_offset = own.host;
    snapshot.l1_size = static_cast<uint32_t>(shared.snapshot.size());
    snapshots.push_back(std::move(snapshot));
    made = co_await write_snapshot_table(snapshots);
    if (!made) co_return io_error(made.error());
    list = *made;
    added.add(list.host, list.bytes);
    BB_CO_TRY(co_await metadata_.sync());
    Metadata::TableSwitch next = metadata_.present_tables();
    next.snapshot_count = static_cast<uint32_t>(snapshots.size());
    next.snapshots_offset = list.host;
    next.other_l1 = active.bytes > 0;
    next.l1_offset = active.host;
    if (next.other_l1) next.l1 = shared.active;
    co_return co_await metadata_.switch_tables(std::move(next));
  };
  const uint64_t old_l1 = header().l1_offset;
  const uint64_t old_l1_bytes = uint64_t{header().l1_size} * 8;
  const uint64_t old_list = header().snapshots_offset;
  const uint64_t old_list_bytes = snapshots_.bytes;
  if (auto done = co_await prepare(); !done) {
    co_await uncount(metadata_, shared.counted, disk_entries);
    co_await added.take_back();
    co_return io_error(done.error());
  }
  co_await adopt_snapshots(std::move(snapshots), list.bytes);
  // It is made: what goes wrong from here on leaks, or is tried again with the next write-back.
  (void)co_await count_l1(metadata_, shared.dropped, Counting::kDrop, true);
  for (const uint64_t table : shared.replaced) {
    metadata_.free_later(table, geometry().cluster_size, FreeReason::kSnapshot,
                         Metadata::FreeOf::kTable);
  }
  if (active.bytes > 0) {
    metadata_.free_later(old_l1, old_l1_bytes, FreeReason::kSnapshot, Metadata::FreeOf::kTable);
  }
  if (old_list_bytes > 0) {
    metadata_.free_later(old_list, old_list_bytes, FreeReason::kSnapshot);
  }
  (void)co_await metadata_.write_back();
  co_return snapshots_.snapshots.back().id;
}

}  // namespace blockbed::qcow2
