// Checker: what is stored beside what was counted.
//
// A table may name one block a million times, in a file that is long and nearly empty. Each name
// makes the same counts those of other clusters. A block is compared as a whole where it is named
// first, and again, as in qemu-img, until kMaxLookedAgain counts were; from then on only with the
// clusters that something refers to, and all else in it is a leak that need not be looked at to be
// counted. Totals are the same; of these leaks none is told.
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

namespace {

// Pieces of refcount blocks kept.
constexpr uint64_t kCachedCountBytes = uint64_t{16} << 20;

}  // namespace

// --- stored counts

uint64_t Checker::block_offset(uint64_t index) const {
  return index < refcount_table_.size() ? refcount_table_[index] & kRefcountTableOffsetMask : 0;
}

Result<uint64_t> Checker::readable_block(uint64_t index) {
  const uint64_t block = block_offset(index);
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
    return io_error(EIO);
  }
  if (block > static_cast<uint64_t>(INT64_MAX) - g_.cluster_size) return io_error(EIO);
  return block >> g_.cluster_bits < used_clusters() ? block : 0;
}

Task<Result<Buffer*>> Checker::load_counts(uint64_t cluster) {
  const auto block = readable_block(cluster >> g_.refcount_block_bits);
  if (!block) co_return io_error(block.error());
  if (*block == 0) co_return nullptr;
  const uint64_t piece = *block + align_down(place_in_block(cluster), g_.refcount_piece_bytes);
  if (const auto found = count_pieces_.find(piece); found != count_pieces_.end()) {
    co_return &found->second;
  }
  auto bytes = co_await read_piece(piece, g_.refcount_piece_bytes);
  if (!bytes) co_return io_error(bytes.error());
  if ((count_pieces_.size() + 1) * g_.refcount_piece_bytes > kCachedCountBytes) {
    count_pieces_.clear();
  }
  co_return &count_pieces_.insert_or_assign(piece, std::move(*bytes)).first->second;
}

Task<Result<uint64_t>> Checker::stored_count(uint64_t cluster) {
  auto piece = co_await load_counts(cluster);
  if (!piece) co_return io_error(piece.error());
  co_return count_in(*piece, cluster);
}

uint64_t Checker::count_in(const Buffer* piece, uint64_t cluster) const {
  if (piece == nullptr) return 0;
  const uint64_t index = cluster & ((uint64_t{1} << piece_bits()) - 1);
  return get_refcount(piece->data(), index, g_.refcount_order);
}

// --- comparing

// Blocks that exist or should: all others hold nothing and are asked for nothing.
std::set<uint64_t> Checker::counted_blocks() const {
  std::set<uint64_t> blocks;
  uint64_t cluster = counts_.next_counted(0);
  while (cluster < used_clusters()) {
    const uint64_t index = cluster >> g_.refcount_block_bits;
    blocks.insert(blocks.end(), index);
    cluster = counts_.next_counted((index + 1) << g_.refcount_block_bits);
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
  looked_again_ = 0;
  block_totals_.clear();
  for (uint64_t index : blocks) BB_CO_TRY(co_await compare_block(index, repair));
  co_return Result<void>();
}

Task<Result<void>> Checker::compare_block(uint64_t index, Repair repair) {
  const uint64_t in_block = uint64_t{1} << g_.refcount_block_bits;
  const uint64_t first = index << g_.refcount_block_bits;
  const uint64_t end = std::min(used_clusters(), first + in_block);
  const auto block = readable_block(index);
  if (!block) {
    tell_unreadable_counts(first, end, block.error());
    co_return Result<void>();
  }
  // What is named twice is never repaired: its cluster's count says that new blocks are needed.
  const auto before = block_totals_.find(*block);
  if (before != block_totals_.end() && end - first == in_block && !can_look_again(in_block)) {
    co_return co_await compare_again(first, end, before->second);
  }
  // Empty: nothing is counted.
  Buffer bytes;
  if (*block != 0) {
    auto read = co_await read_table(*block, g_.cluster_size);
    if (!read && read.error().number() == EIO) {
      tell_unreadable_counts(first, end, read.error());
      co_return Result<void>();
    }
    if (!read) co_return io_error(read.error());
    bytes = std::move(*read);
  }
  const auto next_stored = [&](uint64_t cluster) {
    if (bytes.empty()) return end;
    return first + next_refcount(bytes.data(), cluster - first, end - first, g_.refcount_order);
  };
  BlockTotals totals;
  uint64_t changed_begin = UINT64_MAX;
  uint64_t changed_end = 0;
  uint64_t next_counted = next_stored(first);
  uint64_t next_referred = counts_.next_counted(first);
  for (;;) {
    const uint64_t cluster = std::min(next_counted, next_referred);
    if (cluster >= end) break;
    uint64_t counted = 0;
    if (cluster == next_counted) {
      counted = get_refcount(bytes.data(), cluster - first, g_.refcount_order);
      next_counted = next_stored(cluster + 1);
      ++totals.counted;
      totals.end = cluster + 1 - first;
    }
    uint64_t referred = 0;
    if (cluster == next_referred) {
      referred = counts_[cluster];
      next_referred = counts_.next_counted(cluster + 1);
    }
    report_.image_end_offset = (cluster + 1) << g_.cluster_bits;
    if (counted == referred) [[likely]]
      continue;
    const bool fix =
        *block != 0 && repair != Repair::kNone && (counted > referred || repair == Repair::kAll);
    if (fix) {
      if (bytes.empty()) bytes = Buffer::zeroed(g_.cluster_size);
      set_refcount(bytes.data(), cluster - first, g_.refcount_order, referred);
      const uint64_t sector = align_down(place_in_block(cluster), kSectorSize);
      changed_begin = std::min(changed_begin, sector);
      changed_end = std::max(changed_end, sector + kSectorSize);
    }
    if (fix && referred == 0) freed(cluster);
    tell_wrong_count(cluster, counted, referred, fix);
  }
  if (*block != 0) block_totals_.emplace(*block, totals);
  if (changed_end > 0) {
    count_pieces_.clear();
    BB_CO_TRY(co_await write(*block + changed_begin,
                             bytes.io(changed_begin, changed_end - changed_begin)));
  }
  co_return Result<void>();
}

Task<Result<void>> Checker::compare_again(uint64_t first, uint64_t end, BlockTotals block) {
  uint64_t leaks = block.counted;
  uint64_t used_end = first + block.end;
  uint64_t cluster = counts_.next_counted(first);
  while (cluster < end) {
    auto piece = co_await load_counts(cluster);
    if (!piece) co_return io_error(piece.error());
    const uint64_t piece_end = ((cluster >> piece_bits()) + 1) << piece_bits();
    for (; cluster < piece_end; cluster = counts_.next_counted(cluster + 1)) {
      const uint64_t counted = count_in(*piece, cluster);
      if (counted != 0) --leaks;
      used_end = std::max(used_end, cluster + 1);
      if (counted != counts_[cluster]) tell_wrong_count(cluster, counted, counts_[cluster], false);
    }
  }
  report_.leaks += leaks;
  if (used_end > first) report_.image_end_offset = used_end << g_.cluster_bits;
  co_return Result<void>();
}

void Checker::tell_unreadable_counts(uint64_t first, uint64_t end, Errno error) {
  report_.check_errors += end - first;
  if (!can_look_again(end - first)) end = first + 1;
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    CheckFinding finding;
    finding.fault = FaultClass::kUnreadableCount;
    finding.offset = cluster << g_.cluster_bits;
    finding.bytes = g_.cluster_size;
    finding.referred = counts_[cluster];
    finding.text =
        fmt::format("Can't get refcount for cluster {}: {}", cluster, strerror_text(error));
    tell(std::move(finding));
  }
}

void Checker::tell_lost_count(uint64_t cluster, Errno error) {
  if (report_.check_errors > 0 || !readable_block(cluster >> g_.refcount_block_bits)) return;
  tell_unreadable_counts(cluster, cluster + 1, error);
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

}  // namespace blockbed::qcow2
