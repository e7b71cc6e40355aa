// Checker: what is repaired beyond single places, and the order of it all.
#include "block/formats/qcow2/repair.h"

#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

namespace {

// Each may bring tables into the file that were behind its end; two levels refer to each other.
constexpr int kMaxRebuilds = 4;
// Stretches of clusters whose space is given back; more of them are left as they are.
constexpr std::size_t kMaxFreed = 65536;

}  // namespace

// --- finding room

uint64_t Checker::next_free(uint64_t cluster) const {
  const Region l1 = l1_region();
  for (;;) {
    while (counts_[cluster] != 0) ++cluster;
    const uint64_t offset = cluster << g_.cluster_bits;
    uint64_t behind = std::max({protected_.behind(offset), protected_snapshot_l1s_.behind(offset),
                                dangling_.behind(offset)});
    if (l1.begin <= offset && offset < l1.end) behind = std::max(behind, l1.end);
    if (behind == offset) return cluster;
    cluster = behind >> g_.cluster_bits;
  }
}

std::optional<uint64_t> Checker::take_free(uint64_t clusters) {
  const uint64_t limit = kMaxHostOffset >> g_.cluster_bits;
  uint64_t first = next_free(clusters == 1 ? free_hint_ : 0);
  uint64_t end = first + 1;
  while (end - first < clusters && end <= limit) {
    const uint64_t next = next_free(end);
    if (next != end) first = next;
    end = next + 1;
  }
  if (end > limit) return std::nullopt;
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    if (!counts_.add(cluster)) return std::nullopt;
  }
  counted_clusters_ = std::max(counted_clusters_, end);
  if (clusters == 1) free_hint_ = end;
  return first << g_.cluster_bits;
}

// --- new refcount structures

// Placing a block or the table may call for another block, until nothing more is needed.
std::optional<Checker::NewStructures> Checker::place_structures() {
  NewStructures made;
  free_hint_ = 0;
  for (;;) {
    bool complete = true;
    for (uint64_t index : counted_blocks()) {
      if (made.blocks.contains(index)) continue;
      const auto offset = take_free(1);
      if (!offset) return std::nullopt;
      made.blocks.emplace(index, *offset);
      complete = false;
    }
    if (!complete) continue;
    const uint64_t needed = g_.clusters((made.blocks.rbegin()->first + 1) * 8);
    if (needed << g_.cluster_bits > kMaxRefcountTableBytes) return std::nullopt;
    if (made.table_clusters >= needed) return made;
    for (uint64_t i = 0; i < made.table_clusters; ++i) {
      counts_.remove((made.table >> g_.cluster_bits) + i);
    }
    const auto table = take_free(needed);
    if (!table) return std::nullopt;
    made.table = *table;
    made.table_clusters = needed;
  }
}

Task<Result<void>> Checker::write_new_block(uint64_t index, uint64_t offset) {
  Buffer block = Buffer::zeroed(g_.cluster_size);
  const uint64_t first = index << g_.refcount_block_bits;
  const uint64_t end = std::min(used_clusters(), first + (uint64_t{1} << g_.refcount_block_bits));
  for (uint64_t cluster = counts_.next_counted(first); cluster < end;
       cluster = counts_.next_counted(cluster + 1)) {
    set_refcount(block.data(), cluster - first, g_.refcount_order, counts_[cluster]);
  }
  co_return co_await write(offset, block.io());
}

Task<Result<void>> Checker::rebuild() {
  const auto made = place_structures();
  if (!made) co_return io_error(EFBIG);
  std::vector<uint64_t> table(made->table_clusters << (g_.cluster_bits - 3));
  for (const auto& [index, offset] : made->blocks) {
    BB_CO_TRY(co_await write_new_block(index, offset));
    table[index] = offset;
  }
  const Buffer content = ResidentTable::to_file(table, table.size() * 8);
  BB_CO_TRY(co_await write(made->table, content.io()));
  BB_CO_TRY(co_await file_.flush());
  std::byte field[12];
  store_be64(field, made->table);
  store_be<uint32_t>(field + 8, static_cast<uint32_t>(made->table_clusters));
  BB_CO_TRY(co_await write(field::kRefcountTable, IoVector(field, sizeof(field))));
  BB_CO_TRY(co_await file_.flush());
  h_.refcount_table_offset = made->table;
  h_.refcount_table_clusters = static_cast<uint32_t>(made->table_clusters);
  co_return Result<void>();
}

Task<Result<void>> Checker::rebuild_and_compare() {
  note("Rebuilding refcount structure");
  const CheckReport before = report_;
  first_walk_ = false;
  for (int attempt = 0;; ++attempt) {
    BB_CO_TRY(co_await rebuild());
    // The new structures are counted like all else; the old ones are not referred to any more. What
    // the image had too much of everything is in the totals already.
    report_.corruptions = report_.leaks = report_.check_errors = 0;
    BB_CO_TRY(co_await walk());
    BB_CO_TRY(co_await compare(Repair::kLeaks));
    if (!uncounted_ && !broken_structures_) break;
    // The file grew over what had been behind its end, and that is to be counted now.
    if (attempt == kMaxRebuilds) co_return io_error(EIO);
  }
  report_.leaks_fixed =
      before.leaks_fixed + (before.leaks > report_.leaks ? before.leaks - report_.leaks : 0);
  report_.corruptions_fixed =
      before.corruptions_fixed +
      (before.corruptions > report_.corruptions ? before.corruptions - report_.corruptions : 0);
  co_return Result<void>();
}

// --- counts

Task<Result<void>> Checker::repair_counts(uint64_t corruptions_of_walk) {
  const bool rebuild_needed = broken_structures_ || (uncounted_ && !options_.raise_in_place);
  if (rebuild_needed && !repairs_all()) {
    note("ERROR need to rebuild refcount structures");
    co_return io_error(EIO);
  }
  if (!rebuild_needed && (report_.leaks > 0 || report_.corruptions > 0)) {
    report_.leaks = report_.check_errors = 0;
    report_.corruptions = corruptions_of_walk;
    uncounted_ = false;
    BB_CO_TRY(co_await compare(options_.repair));
  }
  // In place was not enough where there is no block to count in.
  const bool still_uncounted = options_.raise_in_place && report_.corruptions > corruptions_of_walk;
  if (rebuild_needed || (still_uncounted && repairs_all())) {
    BB_CO_TRY(co_await rebuild_and_compare());
  }
  co_return co_await file_.flush();
}

bool Checker::can_count(uint64_t first, uint64_t clusters) const {
  const uint64_t last = (first + clusters - 1) >> g_.refcount_block_bits;
  for (uint64_t index = first >> g_.refcount_block_bits; index <= last; ++index) {
    if (block_offset(index) == 0 || block_offset(index) >= length_) return false;
  }
  return true;
}

Task<Result<void>> Checker::store_counts(uint64_t first, uint64_t clusters) {
  for (uint64_t cluster = first; cluster < first + clusters; ++cluster) {
    auto piece = co_await load_counts(cluster);
    if (!piece) co_return io_error(piece.error());
    if (*piece == nullptr) co_return io_error(EIO);
    const uint64_t in_piece = cluster & ((uint64_t{1} << piece_bits()) - 1);
    set_refcount((*piece)->data(), in_piece, g_.refcount_order, counts_[cluster]);
    const uint64_t sector = align_down(place_in_block(cluster), kSectorSize);
    BB_CO_TRY(co_await write(block_offset(cluster >> g_.refcount_block_bits) + sector,
                             (*piece)->io(sector & (g_.refcount_piece_bytes - 1), kSectorSize)));
  }
  co_return Result<void>();
}

// --- space

void Checker::freed(uint64_t cluster) {
  if (!freed_.empty() && freed_.back().end == cluster) {
    ++freed_.back().end;
  } else if (freed_.size() < kMaxFreed) {
    freed_.push_back(Region{cluster, cluster + 1});
  }
}

// The repair is done, whatever becomes of this.
Task<void> Checker::discard_freed() {
  for (const Region& region : freed_) {
    const uint64_t end = std::min(region.end, file_clusters());
    for (uint64_t first = region.begin; first < end;) {
      // New tables may have taken some of it.
      uint64_t last = first;
      while (last < end && counts_[last] == 0) ++last;
      if (last > first) {
        (void)co_await file_.discard(first << g_.cluster_bits, (last - first) << g_.cluster_bits);
      }
      first = last + 1;
    }
  }
}

// --- the snapshot table

Task<Result<void>> Checker::repair_snapshot_table() {
  if (snapshots_.changed) return write_snapshot_table();
  return write_snapshot_fields(h_.snapshots_offset);
}

Task<Result<void>> Checker::write_snapshot_fields(uint64_t offset) {
  std::byte field[12];
  store_be<uint32_t>(field, static_cast<uint32_t>(snapshots_.entries.size()));
  store_be64(field + 4, offset);
  BB_CO_TRY(co_await write(field::kSnapshots, IoVector(field, sizeof(field))));
  h_.snapshot_count = static_cast<uint32_t>(snapshots_.entries.size());
  h_.snapshots_offset = offset;
  co_return co_await file_.flush();
}

Task<Result<void>> Checker::write_snapshot_table() {
  const std::vector<std::byte> table = encode_snapshot_table(snapshots_.entries);
  const uint64_t clusters = g_.clusters(table.size());
  uint64_t offset = 0;
  bool rebuilt = false;
  if (clusters > 0) {
    const auto room = take_free(clusters);
    if (!room) co_return io_error(EFBIG);
    offset = *room;
    const uint64_t first = offset >> g_.cluster_bits;
    if (can_count(first, clusters)) {
      BB_CO_TRY(co_await store_counts(first, clusters));
    } else {
      BB_CO_TRY(co_await rebuild());
      rebuilt = true;
    }
    BB_CO_TRY(co_await write(offset, IoVector(std::span<const std::byte>(table))));
    BB_CO_TRY(co_await file_.flush());
  }
  const uint64_t old_first = h_.snapshots_offset >> g_.cluster_bits;
  const uint64_t old_clusters = snapshot_table_counted_ ? g_.clusters(snapshots_.bytes) : 0;
  BB_CO_TRY(co_await write_snapshot_fields(offset));
  snapshots_.bytes = table.size();
  if (rebuilt) co_return co_await give_back_old_structures();
  for (uint64_t i = 0; i < old_clusters; ++i) counts_.remove(old_first + i);
  if (old_clusters > 0 && can_count(old_first, old_clusters)) {
    BB_CO_TRY(co_await store_counts(old_first, old_clusters));
  }
  co_return co_await file_.flush();
}

Task<Result<void>> Checker::give_back_old_structures() {
  CheckReport before = report_;
  sink_ = nullptr;
  first_walk_ = false;
  BB_CO_TRY(co_await walk());
  BB_CO_TRY(co_await compare(Repair::kLeaks));
  before.image_end_offset = report_.image_end_offset;
  report_ = std::move(before);
  co_return co_await file_.flush();
}

// --- all of it

Task<Result<void>> Checker::run() {
  // A disk is whole sectors.
  report_.total_clusters = g_.clusters(align_down(h_.size, kSectorSize));
  const FindingSink through = [this](const CheckFinding& finding) { tell(finding); };
  auto snapshots = co_await read_snapshot_table(file_, h_, repairs_all(), report_, through);
  if (!snapshots) co_return io_error(snapshots.error());
  snapshots_ = std::move(*snapshots);
  corruptions_of_snapshots_ = report_.corruptions;
  if (repairs_all()) BB_CO_TRY(co_await find_tables_of_others());
  BB_CO_TRY(co_await walk());
  const uint64_t corruptions_of_walk = report_.corruptions;
  const bool knows_all_references = corruptions_of_walk == 0 && report_.corruptions_fixed == 0;
  BB_CO_TRY(co_await compare(Repair::kNone));
  if (repairs()) BB_CO_TRY(co_await repair_counts(corruptions_of_walk));
  BB_CO_TRY(co_await check_copied_flags());
  if (!repairs()) co_return Result<void>();
  BB_CO_TRY(co_await file_.flush());
  if (snapshots_.changed || snapshots_.shortened) BB_CO_TRY(co_await repair_snapshot_table());
  if (knows_all_references) co_await discard_freed();
  co_return Result<void>();
}

Task<Result<void>> repair_image(Storage& file, Header& header, RepairOptions options,
                                CheckReport& report, FindingSink sink) {
  Checker checker(file, header, options, report, std::move(sink));
  BB_CO_TRY(co_await checker.run());
  constexpr uint64_t kBits = incompatible::kDirty | incompatible::kCorrupt;
  if (report.corruptions > 0 || report.check_errors > 0 || !header.has(kBits)) {
    co_return Result<void>();
  }
  const uint64_t features = header.incompatible_features & ~kBits;
  std::byte bytes[8];
  store_be64(bytes, features);
  BB_CO_TRY(co_await file.write(field::kIncompatible, IoVector(bytes, sizeof(bytes))));
  BB_CO_TRY(co_await file.flush());
  header.incompatible_features = features;
  co_return Result<void>();
}

Task<Result<void>> repair_counts(Storage& file, Header& header) {
  CheckReport report;
  RepairOptions options(Repair::kAll);
  options.raise_in_place = true;
  BB_CO_TRY(co_await repair_image(file, header, options, report, nullptr));
  if (report.check_errors > 0) co_return io_error(EIO);
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
