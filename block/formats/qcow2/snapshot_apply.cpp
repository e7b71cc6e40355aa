// Image: going back to an internal snapshot, deleting one. The order is that of order_of_writes.md,
// "snapshots".
#include <fmt/format.h>

#include <algorithm>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/snapshot_references.h"

namespace blockbed::qcow2 {

namespace {

std::string failed(const char* what, const Result<void>& done) {
  return fmt::format("{}: {}", what, strerror_text(done.error()));
}

// Tables that are about to be active too: all their clusters are shared, so none may say COPIED.
// While they are inactive the flag means nothing, and may be cleared in place.
Task<Result<void>> share_snapshot(Metadata& metadata, const std::vector<uint64_t>& l1) {
  Buffer table;
  for (const uint64_t host : l1) {
    if (host == 0) continue;
    BB_CO_TRY(co_await read_l2_table(metadata, host, table));
    if (!clear_copied(metadata.geometry(), table)) continue;
    BB_CO_TRY(co_await metadata.file().write(host, table.io()));
    metadata.l2_cache().drop(host, metadata.geometry().cluster_size);
  }
  co_return co_await count_l1(metadata, l1, Counting::kAdd, true);
}

Task<Result<uint64_t>> count_of(Metadata& metadata, uint64_t host) {
  const uint64_t cluster = host >> metadata.geometry().cluster_bits;
  if (auto here = metadata.refcount_here(cluster)) co_return *here;
  co_return co_await metadata.refcount(cluster);
}

// The active tables as they are when a snapshot is gone: what only it shared with them is theirs
// alone, and says COPIED.
struct ActiveAlone {
  std::vector<uint64_t> l1;
  std::vector<uint64_t> replaced;
};

// Sets COPIED in `table` where the same entry of `other`, the snapshot's, is the only other
// reference. Whether it changed.
Task<Result<bool>> mark_alone(Metadata& metadata, Buffer& table, const Buffer& other) {
  const Geometry& g = metadata.geometry();
  bool changed = false;
  for (uint32_t i = 0; i < uint32_t{1} << g.l2_bits; ++i) {
    L2Entry mine = load_entry(g, table.data(), i);
    const uint64_t theirs = load_entry(g, other.data(), i).value;
    const uint64_t host = mine.value & kOffsetMask;
    if (((mine.value | theirs) & kEntryCompressed) != 0 || host == 0 ||
        host != (theirs & kOffsetMask) || (mine.value & kEntryCopied) != 0) {
      continue;
    }
    auto count = co_await count_of(metadata, host);
    if (!count) co_return io_error(count.error());
    if (*count != 2) continue;
    mine.value |= kEntryCopied;
    store_entry(g, table.data(), i, mine);
    changed = true;
  }
  co_return changed;
}

Task<Result<void>> leave_alone(Metadata& metadata, const std::vector<uint64_t>& snapshot,
                               ActiveAlone& result, AddedReferences& added) {
  const Geometry& g = metadata.geometry();
  result.l1 = metadata.l1().entries();
  Buffer mine;
  Buffer theirs;
  for (std::size_t i = 0; i < std::min(result.l1.size(), snapshot.size()); ++i) {
    const uint64_t table = result.l1[i] & kOffsetMask;
    const uint64_t other = snapshot[i];
    if (table == 0 || other == 0) continue;
    BB_CO_TRY(co_await read_l2_table(metadata, table, mine));
    if (table != other) BB_CO_TRY(co_await read_l2_table(metadata, other, theirs));
    // A table that is still shared with another snapshot has nothing of its own, unless counts are
    // too high by a leak: its entries tell, not its count.
    auto changed = co_await mark_alone(metadata, mine, table == other ? mine : theirs);
    if (!changed) co_return io_error(changed.error());
    if (!*changed) {
      auto count = co_await count_of(metadata, table);
      if (!count) co_return io_error(count.error());
      if (*count == (table == other ? 2 : 1)) result.l1[i] = table | kEntryCopied;
      continue;
    }
    auto room = co_await metadata.allocate(1, "L2 table");
    if (!room) co_return io_error(room.error());
    added.add(room->host, g.cluster_size);
    BB_CO_TRY(co_await metadata.file().write(room->host, mine.io()));
    result.l1[i] = room->host | kEntryCopied;
    result.replaced.push_back(table);
  }
  co_return Result<void>();
}

}  // namespace

Task<Expected<void>> Image::apply_snapshot(std::size_t index) {
  BB_ASSERT(index < snapshots().size());
  if (metadata_.failed()) co_return fail(strerror_text(ENOMEDIUM));
  if (geometry().external_data) co_return fail(strerror_text(ENOTSUP));
  const Snapshot& snapshot = snapshots()[index];
  BB_CO_TRY(check_l1(geometry(), snapshot));
  const uint64_t size = snapshot.disk_size.value_or(length());
  const uint64_t needed = geometry().l1_entries(size);
  if (size != length()) {
    if (geometry().version < 3) co_return fail("Can't resize a v2 image which has snapshots");
    if (header().bitmaps) {
      co_return fail(
          "Cannot resize qcow2 with persistent bitmaps that were not loaded into memory");
    }
    if (size % kSectorSize != 0) {
      co_return fail(fmt::format("The new size must be a multiple of {}", kSectorSize));
    }
    if (size > INT64_MAX || needed > kMaxL1Bytes / 8) {
      co_return fail(fmt::format("Failed to grow the L1 table: {}", strerror_text(EFBIG)));
    }
  }
  if (!writing_) {
    if (auto begun = co_await begin_writing(); !begun) co_return fail(strerror_text(begun.error()));
  }
  MutexGuard lock = co_await metadata_.lock();
  BB_ASSERT(metadata_.idle());

  std::vector<uint64_t> l1;
  bool counted = false;
  AddedReferences added(metadata_);
  auto prepare = [&]() -> Task<Result<void>> {
    BB_CO_TRY(co_await metadata_.sync());
    auto entries = co_await read_l1(metadata_, snapshot);
    if (!entries) co_return io_error(entries.error());
    l1 = std::move(*entries);
    BB_CO_TRY(co_await share_snapshot(metadata_, l1));
    counted = true;
    Metadata::TableSwitch next = metadata_.present_tables();
    next.size = size;
    next.other_l1 = true;
    next.l1 = l1;
    next.l1.resize(std::max<uint64_t>({next.l1.size(), needed, 1}));
    auto made = co_await write_l1(next.l1);
    if (!made) co_return io_error(made.error());
    added.add(made->host, made->bytes);
    next.l1_offset = made->host;
    BB_CO_TRY(co_await metadata_.sync());
    co_return co_await metadata_.switch_tables(std::move(next));
  };
  const std::vector<uint64_t> old_l1 = metadata_.l1().entries();
  const uint64_t old_offset = header().l1_offset;
  if (auto done = co_await prepare(); !done) {
    if (counted && !metadata_.header_unsure()) {
      (void)co_await count_l1(metadata_, l1, Counting::kUndo, true);
    }
    co_await added.take_back();
    co_return fail(strerror_text(done.error()));
  }
  co_await adopt_snapshots(std::move(snapshots_.snapshots), snapshots_.bytes);
  Result<void> freed = co_await count_l1(metadata_, old_l1, Counting::kDrop, true);
  if (!old_l1.empty()) {
    metadata_.free_later(old_offset, old_l1.size() * 8, FreeReason::kSnapshot,
                         Metadata::FreeOf::kTable);
  }
  auto written = co_await metadata_.write_back();
  if (freed) freed = written;
  if (!freed) co_return fail(failed("Failed to free the old clusters", freed));
  co_return Expected<void>();
}

Task<Expected<void>> Image::delete_snapshot(std::size_t index) {
  BB_ASSERT(index < snapshots().size());
  if (metadata_.failed()) co_return fail(strerror_text(ENOMEDIUM));
  if (geometry().external_data) co_return fail(strerror_text(ENOTSUP));
  const Snapshot snapshot = snapshots()[index];
  BB_CO_TRY(check_l1(geometry(), snapshot));
  constexpr const char* kNotRemoved = "Failed to remove snapshot from snapshot list";
  if (!writing_) {
    if (auto begun = co_await begin_writing(); !begun) co_return fail(failed(kNotRemoved, begun));
  }
  MutexGuard lock = co_await metadata_.lock();
  BB_ASSERT(metadata_.idle());

  std::vector<Snapshot> rest = snapshots();
  rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(index));
  std::vector<uint64_t> l1;
  ActiveAlone alone;
  AddedReferences added(metadata_);
  NewTable active;
  NewTable list;
  auto prepare = [&]() -> Task<Result<void>> {
    BB_CO_TRY(co_await metadata_.sync());
    auto entries = co_await read_l1(metadata_, snapshot);
    if (!entries) co_return io_error(entries.error());
    l1 = std::move(*entries);
    BB_CO_TRY(co_await leave_alone(metadata_, l1, alone, added));
    Metadata::TableSwitch next = metadata_.present_tables();
    if (alone.l1 != metadata_.l1().entries()) {
      auto made = co_await write_l1(alone.l1);
      if (!made) co_return io_error(made.error());
      active = *made;
      added.add(active.host, active.bytes);
      next.other_l1 = true;
      next.l1_offset = active.host;
      next.l1 = alone.l1;
    }
    auto made = co_await write_snapshot_table(rest);
    if (!made) co_return io_error(made.error());
    list = *made;
    if (list.bytes > 0) added.add(list.host, list.bytes);
    next.snapshot_count = static_cast<uint32_t>(rest.size());
    next.snapshots_offset = list.host;
    BB_CO_TRY(co_await metadata_.sync());
    co_return co_await metadata_.switch_tables(std::move(next));
  };
  const uint64_t old_l1 = header().l1_offset;
  const uint64_t old_l1_bytes = uint64_t{header().l1_size} * 8;
  const uint64_t old_list = header().snapshots_offset;
  const uint64_t old_list_bytes = snapshots_.bytes;
  if (auto done = co_await prepare(); !done) {
    co_await added.take_back();
    co_return fail(failed(kNotRemoved, done));
  }
  co_await adopt_snapshots(std::move(rest), list.bytes);
  Result<void> freed = co_await count_l1(metadata_, l1, Counting::kDrop, true);
  for (const uint64_t table : alone.replaced) {
    metadata_.free_later(table, geometry().cluster_size, FreeReason::kSnapshot,
                         Metadata::FreeOf::kTable);
  }
  if (active.bytes > 0) {
    metadata_.free_later(old_l1, old_l1_bytes, FreeReason::kSnapshot, Metadata::FreeOf::kTable);
  }
  if (snapshot.l1_size > 0) {
    metadata_.free_later(snapshot.l1_offset, uint64_t{snapshot.l1_size} * 8, FreeReason::kSnapshot,
                         Metadata::FreeOf::kTable);
  }
  metadata_.free_later(old_list, old_list_bytes, FreeReason::kSnapshot);
  auto written = co_await metadata_.write_back();
  if (freed) freed = written;
  if (!freed) co_return fail(failed("Failed to free the cluster and L1 table", freed));
  co_return Expected<void>();
}

Task<Expected<void>> Image::show_snapshot(std::size_t index) {
  BB_ASSERT(index < snapshots().size() && !writing_);
  const Snapshot& snapshot = snapshots()[index];
  BB_CO_TRY(check_l1(geometry(), snapshot));
  auto l1 = co_await read_l1(metadata_, snapshot);
  if (!l1) co_return fail("Failed to read l1 table for snapshot");
  metadata_.show_tables(snapshot.l1_offset, std::move(*l1));
  co_return Expected<void>();
}

// --- VM state

uint64_t Image::vm_state_offset() const {
  return geometry().l1_entries(length()) * geometry().l2_coverage();
}

Task<Result<void>> Image::write_vm_state(uint64_t position, IoVector buffers) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  if (geometry().external_data) co_return io_error(ENOTSUP);
  const uint64_t begin = vm_state_offset();
  if (position > INT64_MAX - begin || buffers.size() > INT64_MAX - begin - position) {
    co_return io_error(EFBIG);
  }
  if (buffers.size() == 0) co_return Result<void>();
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  co_await metadata_.file().debug_event(DebugEvent::kVmstateSave);
  {
    MutexGuard lock = co_await metadata_.lock();
    BB_CO_TRY(co_await metadata_.grow_l1(geometry().l1_entries(begin + position + buffers.size())));
  }
  co_return co_await write(begin + position, std::move(buffers));
}

Task<Result<void>> Image::read_vm_state(uint64_t position, IoVector buffers) {
  const uint64_t begin = vm_state_offset();
  if (position > INT64_MAX - begin || buffers.size() > INT64_MAX - begin - position) {
    co_return io_error(EFBIG);
  }
  co_await metadata_.file().debug_event(DebugEvent::kVmstateLoad);
  co_return co_await read(begin + position, std::move(buffers));
}

}  // namespace blockbed::qcow2
