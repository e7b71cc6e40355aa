// Checker: do the COPIED flags of the active tables agree with the counts?
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/resident_table.h"

namespace blockbed::qcow2 {

Task<Result<bool>> Checker::check_copied_in_table(uint64_t table, bool repair) {
  auto bytes = co_await read_table(table, g_.cluster_size);
  if (!bytes) co_return io_error(bytes.error());
  if (bytes->empty()) co_return false;
  const EntryRepair fix = entry_repair(repair, !is_flag_of_others(table, g_.cluster_size));
  bool wrong_and_kept = false;
  std::set<uint64_t> sectors;
  // One look-up serves neighbours.
  uint64_t number = UINT64_MAX;
  Result<Buffer*> piece = nullptr;
  for (uint32_t i = 0; i < uint32_t{1} << g_.l2_bits; ++i) {
    L2Entry entry = load_entry(g_, bytes->data(), i);
    const uint64_t host = entry.value & kOffsetMask;
    if ((entry.value & kEntryCompressed) != 0) continue;
    if (host == 0 && !(g_.external_data && (entry.value & kEntryCopied) != 0)) continue;
    uint64_t count = 1;
    if (!g_.external_data) {
      const uint64_t cluster = host >> g_.cluster_bits;
      if (cluster >> piece_bits() != number) {
        number = cluster >> piece_bits();
        piece = co_await load_counts(cluster);
      }
      if (!piece) {
        tell_lost_count(cluster, piece.error());
        continue;
      }
      count = count_in(*piece, cluster);
    }
    if (copied_flag_right(count, entry.value)) [[likely]]
      continue;
    const uint64_t place = g_.external_data ? table + uint64_t{i} * g_.entry_bytes : host;
    wrong_entry(
        FaultClass::kCopiedFlag, place, count,
        fmt::format("OFLAG_COPIED data cluster: l2_entry={:x} refcount={}", entry.value, count),
        fix);
    wrong_and_kept |= fix == EntryRepair::kRefused;
    if (fix != EntryRepair::kDone) continue;
    entry.value ^= kEntryCopied;
    store_entry(g_, bytes->data(), i, entry);
    sectors.insert(align_down(uint64_t{i} * g_.entry_bytes, kSectorSize));
  }
  for (uint64_t sector : sectors) {
    BB_CO_TRY(co_await write(table + sector, bytes->io(sector, kSectorSize)));
  }
  co_return wrong_and_kept;
}

// From the first changed entry of a sector to its last one: what is around a table may be anything.
Task<Result<void>> Checker::write_l1_entries(const ResidentTable& l1,
                                             const std::vector<uint64_t>& changed) {
  for (std::size_t at = 0; at < changed.size();) {
    const uint64_t first = changed[at];
    uint64_t last = first;
    while (at < changed.size() && changed[at] / ResidentTable::kEntriesPerSector ==
                                      first / ResidentTable::kEntriesPerSector) {
      last = changed[at++];
    }
    std::byte bytes[kSectorSize];
    for (uint64_t i = first; i <= last; ++i) store_be64(bytes + (i - first) * 8, l1[i]);
    BB_CO_TRY(co_await write(l1.offset() + first * 8, IoVector(bytes, (last - first + 1) * 8)));
  }
  co_return Result<void>();
}

Task<Result<void>> Checker::check_copied_flags() {
  // Leaks alone were to be repaired: flags are, when no count and no reference is left wrong.
  const bool repair = repairs_all() || (repairs() && report_.leaks == 0 &&
                                        report_.corruptions == corruptions_of_snapshots_ &&
                                        report_.check_errors == 0);
  const uint64_t inside =
      h_.l1_offset >= length_ ? 0 : std::min<uint64_t>(h_.l1_size, (length_ - h_.l1_offset) / 8);
  ResidentTable l1;
  BB_CO_TRY(co_await l1.read(file_, h_.l1_offset, inside));
  const EntryRepair fix =
      entry_repair(repair, !protected_.overlaps(h_.l1_offset, h_.l1_offset + inside * 8));
  std::vector<uint64_t> changed;
  std::map<uint64_t, uint64_t> repeated;
  looked_again_ = 0;
  bool kept = false;
  for (uint64_t i = 0; i < l1.size(); ++i) {
    const uint64_t table = l1[i] & kOffsetMask;
    if (table == 0) continue;
    auto count = co_await stored_count(table >> g_.cluster_bits);
    if (!count) {
      tell_lost_count(table >> g_.cluster_bits, count.error());
      continue;
    }
    if (!copied_flag_right(*count, l1[i])) {
      wrong_entry(FaultClass::kCopiedFlag, table, *count,
                  fmt::format("OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}", i,
                              l1[i], *count),
                  fix);
      kept |= fix == EntryRepair::kRefused;
      if (fix == EntryRepair::kDone) {
        l1.set(i, l1[i] ^ kEntryCopied);
        changed.push_back(i);
      }
    }
    if (table >= length_) continue;
    // Counts of one bit do not tell one name from more.
    const bool may_be_again = counts_[table >> g_.cluster_bits] > 1 || counts_.max() == 1;
    if (may_be_again && !can_look_again(uint64_t{1} << g_.l2_bits)) {
      ++repeated[table];
      continue;
    }
    auto table_kept = co_await check_copied_in_table(table, repair);
    if (!table_kept) co_return io_error(table_kept.error());
    kept |= *table_kept;
  }
  for (const auto& [table, times] : repeated) {
    times_ = times;
    auto table_kept = co_await check_copied_in_table(table, repair);
    if (!table_kept) co_return io_error(table_kept.error());
    kept |= *table_kept;
  }
  times_ = 1;
  if (kept)
    note("ERROR: Could not write L2 table; metadata overlap check failed: Input/output error");
  co_return co_await write_l1_entries(l1, changed);
}

}  // namespace blockbed::qcow2
