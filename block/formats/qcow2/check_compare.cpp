// Checker: what is stored beside what was counted.
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/resident_table.h"

namespace blockbed::qcow2 {

namespace {

// Refcount blocks kept while flags are compared.
constexpr uint64_t kCachedBlockBytes = uint64_t{16} << 20;

}  // namespace

uint64_t Checker::block_offset(uint64_t index) const {
  return index < refcount_table_.size() ? refcount_table_[index] & kRefcountTableOffsetMask : 0;
}

Task<Result<Buffer*>> Checker::load_block(uint64_t index) {
  const uint64_t block = block_offset(index);
  if (block == 0) co_return nullptr;
  if (const auto found = blocks_.find(index); found != blocks_.end()) co_return &found->second;
  if (g_.in_cluster(block) != 0) {
    if (!told_unaligned_block_ && !repairs()) {
      // As C writes it: zero without 0x.
      const std::string number = index == 0 ? "0" : fmt::format("{:#x}", index);
      note(
          fmt::format("qcow2: Image is corrupt: Refblock offset {:#x} unaligned (reftable index: "
                      "{}); further non-fatal corruption events will be suppressed",
                      block, number));
    }
    told_unaligned_block_ = true;
    co_return io_error(EIO);
  }
  if (block > static_cast<uint64_t>(INT64_MAX) - g_.cluster_size) co_return io_error(EIO);
  auto bytes = co_await read_piece(block, g_.cluster_size);
  if (!bytes) co_return io_error(bytes.error());
  if ((blocks_.size() + 1) << g_.cluster_bits > std::max(kCachedBlockBytes, g_.cluster_size)) {
    blocks_.clear();
  }
  co_return &blocks_.insert_or_assign(index, std::move(*bytes)).first->second;
}

Task<Result<uint64_t>> Checker::stored_count(uint64_t cluster) {
  auto block = co_await load_block(cluster >> g_.refcount_block_bits);
  if (!block) co_return io_error(block.error());
  co_return count_in(*block, cluster);
}

uint64_t Checker::count_in(const Buffer* block, uint64_t cluster) const {
  if (block == nullptr) return 0;
  const uint64_t index = cluster & ((uint64_t{1} << g_.refcount_block_bits) - 1);
  return get_refcount(block->data(), index, g_.refcount_order);
}

// Blocks that exist or should: all others hold nothing and are asked for nothing.
std::set<uint64_t> Checker::counted_blocks() const {
  std::set<uint64_t> blocks;
  uint64_t cluster = counts_.next_counted_page(0);
  while (cluster < used_clusters()) {
    const uint64_t index = cluster >> g_.refcount_block_bits;
    const uint64_t end = (index + 1) << g_.refcount_block_bits;
    uint64_t at = cluster;
    while (at < end && at < used_clusters() && counts_[at] == 0) ++at;
    if (at < end && at < used_clusters()) blocks.insert(index);
    cluster = counts_.next_counted_page(end);
  }
  return blocks;
}

Task<Result<void>> Checker::compare(Repair repair) {
  std::set<uint64_t> blocks = counted_blocks();
  for (uint64_t i = 0; i < refcount_table_.size(); ++i) {
    if (block_offset(i) != 0 && i << g_.refcount_block_bits < used_clusters()) blocks.insert(i);
  }
  // The header is always there.
  report_.image_end_offset = g_.cluster_size;
  for (uint64_t index : blocks) BB_CO_TRY(co_await compare_block(index, repair));
  co_return Result<void>();
}

Task<Result<void>> Checker::compare_block(uint64_t index, Repair repair) {
  const uint64_t first = index << g_.refcount_block_bits;
  const uint64_t end = std::min(used_clusters(), first + (uint64_t{1} << g_.refcount_block_bits));
  auto block = co_await load_block(index);
  if (!block && block.error().number() != EIO) co_return io_error(block.error());
  if (!block) {
    for (uint64_t cluster = first; cluster < end; ++cluster) {
      ++report_.check_errors;
      CheckFinding finding;
      finding.fault = FaultClass::kUnreadableCount;
      finding.offset = cluster << g_.cluster_bits;
      finding.bytes = g_.cluster_size;
      finding.referred = counts_[cluster];
      finding.text = fmt::format("Can't get refcount for cluster {}: {}", cluster,
                                 strerror_text(block.error()));
      tell(std::move(finding));
    }
    co_return Result<void>();
  }
  std::byte* const stored = *block != nullptr ? (*block)->data() : nullptr;
  uint64_t used_end = 0;
  uint64_t changed_begin = UINT64_MAX;
  uint64_t changed_end = 0;
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    const uint64_t in_block = cluster - first;
    const uint64_t referred = counts_[cluster];
    const uint64_t counted =
        stored == nullptr ? 0 : get_refcount(stored, in_block, g_.refcount_order);
    if ((counted | referred) != 0) used_end = cluster + 1;
    if (counted == referred) [[likely]]
      continue;
    const bool fix = stored != nullptr && repair != Repair::kNone &&
                     (counted > referred || repair == Repair::kAll);
    if (fix) {
      set_refcount(stored, in_block, g_.refcount_order, referred);
      const uint64_t byte = in_block << g_.refcount_order >> 3;
      changed_begin = std::min(changed_begin, align_down(byte, kSectorSize));
      changed_end = std::max(changed_end, align_down(byte, kSectorSize) + kSectorSize);
    }
    if (fix && referred == 0) freed(cluster);
    tell_wrong_count(cluster, counted, referred, fix);
  }
  if (used_end != 0) report_.image_end_offset = used_end << g_.cluster_bits;
  if (changed_end > 0) {
    BB_CO_TRY(co_await file_.write(block_offset(index) + changed_begin,
                                   (*block)->io(changed_begin, changed_end - changed_begin)));
  }
  co_return Result<void>();
}

void Checker::tell_wrong_count(uint64_t cluster, uint64_t counted, uint64_t referred,
                               bool repaired) {
  const bool leak = counted > referred;
  if (counted == 0) uncounted_ = true;
  if (repaired) {
    ++(leak ? report_.leaks_fixed : report_.corruptions_fixed);
  } else {
    ++(leak ? report_.leaks : report_.corruptions);
  }
  CheckFinding finding;
  finding.fault = leak           ? FaultClass::kLeak
                  : counted == 0 ? FaultClass::kUncounted
                                 : FaultClass::kCountTooLow;
  finding.repaired = repaired;
  finding.offset = cluster << g_.cluster_bits;
  finding.bytes = g_.cluster_size;
  finding.counted = counted;
  finding.referred = referred;
  finding.text = fmt::format("{} cluster {} refcount={} reference={}",
                             repaired ? "Repairing"
                             : leak   ? "Leaked"
                                      : "ERROR",
                             cluster, counted, referred);
  tell(std::move(finding));
}

// --- COPIED flags of the active tables

Task<Result<bool>> Checker::check_copied_in_table(uint64_t table, bool repair) {
  auto bytes = co_await read_piece(table, g_.cluster_size);
  if (!bytes) co_return io_error(bytes.error());
  const bool writable =
      repair && table < length_ && !is_other_metadata(table, g_.cluster_size, Owner::kActiveL2);
  bool wrong_and_kept = false;
  std::set<uint64_t> sectors;
  // One look-up serves neighbours.
  uint64_t block_index = UINT64_MAX;
  Result<Buffer*> block = nullptr;
  for (uint32_t i = 0; i < uint32_t{1} << g_.l2_bits; ++i) {
    L2Entry entry = load_entry(g_, bytes->data(), i);
    const uint64_t host = entry.value & kOffsetMask;
    if ((entry.value & kEntryCompressed) != 0) continue;
    if (host == 0 && !(g_.external_data && (entry.value & kEntryCopied) != 0)) continue;
    uint64_t count = 1;
    if (!g_.external_data) {
      const uint64_t cluster = host >> g_.cluster_bits;
      if (cluster >> g_.refcount_block_bits != block_index) {
        block_index = cluster >> g_.refcount_block_bits;
        block = co_await load_block(block_index);
      }
      if (!block) continue;
      count = count_in(*block, cluster);
    }
    if (copied_flag_right(count, entry.value)) [[likely]]
      continue;
    (repair ? report_.corruptions_fixed : report_.corruptions) += times_;
    CheckFinding finding;
    finding.fault = FaultClass::kCopiedFlag;
    finding.repaired = repair;
    finding.offset = host;
    finding.bytes = g_.cluster_size;
    finding.counted = count;
    finding.text = fmt::format("{} OFLAG_COPIED data cluster: l2_entry={:x} refcount={}",
                               repair ? "Repairing" : "ERROR", entry.value, count);
    tell(std::move(finding));
    if (!repair) continue;
    if (!writable) {
      report_.corruptions_fixed -= times_;
      report_.corruptions += times_;
      wrong_and_kept = true;
      continue;
    }
    entry.value ^= kEntryCopied;
    store_entry(g_, bytes->data(), i, entry);
    sectors.insert(align_down(uint64_t{i} * g_.entry_bytes, kSectorSize));
  }
  for (uint64_t sector : sectors) {
    BB_CO_TRY(co_await file_.write(table + sector, bytes->io(sector, kSectorSize)));
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
    BB_CO_TRY(
        co_await file_.write(l1.offset() + first * 8, IoVector(bytes, (last - first + 1) * 8)));
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
  const bool writable = !is_other_metadata(h_.l1_offset, inside * 8, Owner::kActiveL1);
  std::vector<uint64_t> changed;
  std::map<uint64_t, uint64_t> repeated;
  looked_again_ = 0;
  bool kept = false;
  for (uint64_t i = 0; i < l1.size(); ++i) {
    const uint64_t table = l1[i] & kOffsetMask;
    if (table == 0) continue;
    auto count = co_await stored_count(table >> g_.cluster_bits);
    if (!count) continue;
    if (!copied_flag_right(*count, l1[i])) {
      ++(repair ? report_.corruptions_fixed : report_.corruptions);
      CheckFinding finding;
      finding.fault = FaultClass::kCopiedFlag;
      finding.repaired = repair;
      finding.offset = table;
      finding.bytes = g_.cluster_size;
      finding.counted = *count;
      finding.text =
          fmt::format("{} OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}",
                      repair ? "Repairing" : "ERROR", i, l1[i], *count);
      tell(std::move(finding));
      if (repair && writable) {
        l1.set(i, l1[i] ^ kEntryCopied);
        changed.push_back(i);
      } else if (repair) {
        --report_.corruptions_fixed;
        ++report_.corruptions;
        kept = true;
      }
    }
    if (table >= length_) continue;
    if (counts_[table >> g_.cluster_bits] > 1 && !can_look_again(uint64_t{1} << g_.l2_bits)) {
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
