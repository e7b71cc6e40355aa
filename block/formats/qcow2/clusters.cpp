// Metadata: allocating and freeing clusters, growing the refcount structures.
#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/hex_text.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

Task<Result<Metadata::Piece*>> Metadata::refcount_piece(uint64_t cluster, bool for_change) {
  const uint64_t block_index = cluster >> g_.refcount_block_bits;
  const uint64_t block = refcount_table_[block_index] & kRefcountTableOffsetMask;
  if ((block & g_.cluster_mask()) != 0) {
    co_return io_error(
        co_await report(Corruption{true,
                                   fmt::format("Refblock offset {} unaligned (reftable index: {})",
                                               hex_text(block), hex_text(block_index)),
                                   {},
                                   {}}));
  }
  const uint64_t index = cluster & ((uint64_t{1} << g_.refcount_block_bits) - 1);
  const uint64_t byte = (index << g_.refcount_order) >> 3;
  const uint64_t offset = block + align_down(byte, g_.refcount_piece_bytes);
  if (for_change) co_return co_await refcount_cache_.load_for_change(offset);
  co_return co_await refcount_cache_.load(offset);
}

namespace {

// Entries of a cached piece, as log2.
uint32_t piece_entry_bits(const Geometry& g) {
  return static_cast<uint32_t>(__builtin_ctz(g.refcount_piece_bytes)) + 3 - g.refcount_order;
}

}  // namespace

Task<Result<uint64_t>> Metadata::refcount(uint64_t cluster) {
  const uint64_t block = cluster >> g_.refcount_block_bits;
  if (block >= refcount_table_.size() || refcount_table_[block] == 0) co_return uint64_t{0};
  auto piece = co_await refcount_piece(cluster);
  if (!piece) co_return io_error(piece.error());
  const uint64_t in_piece = cluster & ((uint64_t{1} << piece_entry_bits(g_)) - 1);
  co_return get_refcount((*piece)->data(), in_piece, g_.refcount_order);
}

Task<Result<void>> Metadata::change_counts(uint64_t first, uint64_t clusters, int delta,
                                           std::vector<HostRange>* freed) {
  const uint64_t per_piece = uint64_t{1} << piece_entry_bits(g_);
  uint64_t done = 0;
  std::optional<uint64_t> kept;
  Result<void> result;
  while (done < clusters) {
    const uint64_t cluster = first + done;
    const uint64_t block = cluster >> g_.refcount_block_bits;
    if (block >= refcount_table_.size() || refcount_table_[block] == 0) {
      // Nothing is counted there: an image that refers to it is corrupt.
      result = io_error(EINVAL);
      break;
    }
    if (refcount_cache_.dirty_count() >= refcount_cache_.max_dirty()) {
      // Increases may always go out, decreases are made only when they may (order_of_writes.md).
      result = co_await refcount_cache_.write_dirty();
      if (!result) break;
    }
    co_await file_.debug_event(DebugEvent::kRefblockAlloc);
    if (delta < 0) {
      // A count that cannot fall is not written, not even to have room: its block may lie where the
      // file never was.
      auto present = co_await refcount(cluster);
      if (!present || *present < static_cast<uint64_t>(-delta)) {
        result = io_error(present ? Errno(EINVAL) : present.error());
        break;
      }
    }
    auto piece = co_await refcount_piece(cluster, true);
    if (!piece) {
      result = io_error(piece.error());
      break;
    }
    if (const uint64_t at = (*piece)->offset;
        overlap_map_.find(options_.overlap_checks & ~overlap::kRefcountBlock, at,
                          g_.refcount_piece_bytes) != 0) [[unlikely]] {
      const uint32_t hit = overlap_map_.find(options_.overlap_checks & ~overlap::kRefcountBlock, at,
                                             g_.refcount_piece_bytes);
      result = io_error(co_await report_overlap(hit, at, g_.refcount_piece_bytes));
      break;
    }
    const uint64_t index = cluster & (per_piece - 1);
    const uint64_t here = std::min(clusters - done, per_piece - index);
    std::byte* const data = (*piece)->data();
    for (uint64_t i = 0; i < here; ++i) {
      const uint64_t old = get_refcount(data, index + i, g_.refcount_order);
      if (delta > 0 ? old > g_.refcount_max() - static_cast<uint64_t>(delta)
                    : old < static_cast<uint64_t>(-delta)) {
        result = io_error(EINVAL);
        break;
      }
      const uint64_t now = old + static_cast<uint64_t>(static_cast<int64_t>(delta));
      const uint64_t host = (cluster + i) << g_.cluster_bits;
      if (now == 0 && overlap(host, g_.cluster_size) != 0) [[unlikely]] {
        if (!kept) kept = host;
        ++done;
        continue;
      }
      set_refcount(data, index + i, g_.refcount_order, now);
      refcount_cache_.mark_dirty(**piece);
      if (now == 0) {
        free_hint_ = std::min(free_hint_, cluster + i);
        if (compressed_end_ != 0 && (compressed_end_ >> g_.cluster_bits) == cluster + i) {
          compressed_end_ = 0;
        }
        if (freed != nullptr) {
          if (!freed->empty() && freed->back().host + freed->back().bytes == host) {
            freed->back().bytes += g_.cluster_size;
          } else {
            freed->push_back(HostRange{host, g_.cluster_size});
          }
        }
      }
      ++done;
    }
    if (!result) break;
  }
  if (kept) co_await report_kept(overlap(*kept, g_.cluster_size), *kept);
  if (!result && delta > 0 && done > 0) (void)co_await change_counts(first, done, -delta);
  co_return result;
}

Task<Result<void>> Metadata::add_refcounts(uint64_t host, uint64_t bytes, int delta) {
  const uint64_t first = host >> g_.cluster_bits;
  const uint64_t last = (host + bytes - 1) >> g_.cluster_bits;
  co_return co_await change_counts(first, last - first + 1, delta);
}

Task<Result<uint64_t>> Metadata::find_free(uint64_t clusters) {
  const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
  const uint64_t per_piece = uint64_t{1} << piece_entry_bits(g_);
  uint64_t start = free_hint_;
  uint64_t next = start;
  while (next - start < clusters) {
    if ((next >> (56 - g_.cluster_bits)) != 0) co_return io_error(EFBIG);
    const uint64_t block = next >> g_.refcount_block_bits;
    if (block >= refcount_table_.size()) {
      // No count, no use: everything from here on is free.
      break;
    }
    if (refcount_table_[block] == 0) {
      next = (block + 1) * per_block;
      continue;
    }
    auto piece = co_await refcount_piece(next);
    if (!piece) co_return io_error(piece.error());
    const std::byte* const data = (*piece)->data();
    const uint64_t end = align_down(next, per_piece) + per_piece;
    while (next < end && next - start < clusters) {
      if (get_refcount(data, next & (per_piece - 1), g_.refcount_order) != 0) start = next + 1;
      ++next;
    }
  }
  co_return start;
}

bool Metadata::should_reuse(uint64_t end, uint64_t clusters) const {
  const uint64_t wanted = std::max(reuse_threshold_, clusters << g_.cluster_bits);
  if (pending_bytes_ < wanted || (new_space_zero_ && end <= file_end_)) return false;
  const uint64_t oldest = oldest_running();
  uint64_t ready = 0;
  for (const PendingFree& free : pending_) {
    if (free.when > oldest) break;
    if (free.of != FreeOf::kPlace) ready += free.bytes;
    if (ready >= wanted) return true;
  }
  return false;
}

Task<Result<void>> Metadata::write_back_for_reuse() {
  const uint64_t expected = pending_bytes_;
  const uint64_t before = freed_bytes_;
  BB_CO_TRY(co_await write_back());
  // Clusters that a snapshot holds too, and compressed ones that share theirs, lose a reference and
  // are in use as before. To write back for them is only worth it when it would be due anyway.
  const bool worth_it = freed_bytes_ - before >= (expected - pending_bytes_) / 2;
  reuse_threshold_ = worth_it ? std::max(options_.reuse_bytes, reuse_threshold_ / 2)
                              : std::min(reuse_threshold_ * 2, kMaxReuseBytes);
  co_return Result<void>();
}

Task<bool> Metadata::use_what_waits() {
  if (pending_bytes_ == 0) co_return false;
  const uint64_t before = freed_bytes_;
  const Result<void> written = co_await write_back();
  co_return written.has_value() && freed_bytes_ != before;
}

Task<Result<Metadata::Allocation>> Metadata::allocate(uint64_t clusters, const char* what,
                                                      std::optional<FirstWrite> write) {
  co_await file_.debug_event(DebugEvent::kClusterAlloc);
  co_return co_await allocate_unannounced(clusters, what, write);
}

Task<Result<Metadata::Allocation>> Metadata::allocate_unannounced(uint64_t clusters,
                                                                  const char* what,
                                                                  std::optional<FirstWrite> write) {
  BB_ASSERT(clusters > 0 && ready_for_writing_);
  if (failed_) co_return io_error(EIO);
  for (;;) {
    auto found = co_await find_free(clusters);
    if (!found) co_return io_error(found.error());
    const uint64_t first = *found;
    const uint64_t host = first << g_.cluster_bits;
    if (should_reuse(host + (clusters << g_.cluster_bits), clusters)) {
      BB_CO_TRY(co_await write_back_for_reuse());
      continue;
    }
    if (host + (clusters << g_.cluster_bits) > max_host_) co_return io_error(EFBIG);
    if (host == 0) co_return io_error(co_await report_free_header(clusters, what, write));
    bool added = false;
    const uint64_t last_block = (first + clusters - 1) >> g_.refcount_block_bits;
    for (uint64_t block = first >> g_.refcount_block_bits; block <= last_block; ++block) {
      if (block >= refcount_table_.size()) {
        BB_CO_TRY(co_await grow_refcount_table(last_block + 1));
      } else if (refcount_table_[block] == 0) {
        BB_CO_TRY(co_await add_refcount_block(block, first));
      } else {
        continue;
      }
      added = true;
      break;
    }
    if (added) continue;

    const uint64_t bytes = clusters << g_.cluster_bits;
    if (const uint32_t hit = overlap(host, bytes); hit != 0) {
      const FirstWrite told = write.value_or(FirstWrite{0, bytes});
      co_return io_error(co_await report_overlap(hit, host + told.skip, told.bytes));
    }
    BB_CO_TRY(co_await change_counts(first, clusters, 1));
    free_hint_ = first + clusters;
    Allocation allocation;
    allocation.host = host;
    allocation.fresh = new_space_zero_ && host >= file_end_;
    file_end_ = std::max(file_end_, host + bytes);
    co_return allocation;
  }
}

// An image whose header is not counted. Where there is no block for its count either, QEMU wants to
// make one first, behind what is asked for, and says what lies there. What is written by parts it
// finds out by the write.
Task<Errno> Metadata::report_free_header(uint64_t clusters, const char* what,
                                         const std::optional<FirstWrite>& write) {
  const uint64_t behind = clusters << g_.cluster_bits;
  const uint32_t hit = refcount_table_[0] == 0 ? overlap(behind, g_.cluster_size) : 0;
  if (hit != 0) co_return co_await report_overlap(hit, behind, g_.cluster_size);
  if (const uint32_t header = overlap(0, behind); write && header != 0) {
    co_return co_await report_overlap(header, write->skip, write->bytes);
  }
  co_return co_await report(Corruption{
      true, fmt::format("Preventing invalid allocation of {} at offset 0", what), {}, {}});
}

Task<Result<void>> Metadata::add_refcount_block(uint64_t index, uint64_t cluster) {
  const uint64_t host = cluster << g_.cluster_bits;
  if (const uint32_t hit = overlap(host, g_.cluster_size); hit != 0) {
    co_return io_error(co_await report_overlap(hit, host, g_.cluster_size));
  }
  BB_CO_TRY(co_await refcount_table_.place(file_, index, DebugEvent::kRefblockAllocHookup));
  const bool counts_itself = cluster >> g_.refcount_block_bits == index;
  if (!counts_itself) BB_CO_TRY(co_await change_counts(cluster, 1, 1));
  // Written whole before anything refers to it; only then does it become a block.
  Buffer content = Buffer::zeroed(g_.cluster_size);
  if (counts_itself) {
    const uint64_t in_block = cluster & ((uint64_t{1} << g_.refcount_block_bits) - 1);
    set_refcount(content.data(), in_block, g_.refcount_order, 1);
  }
  // Also a write that fails leaves something there.
  file_end_ = std::max(file_end_, host + g_.cluster_size);
  co_await file_.debug_event(DebugEvent::kRefblockAllocWrite);
  if (auto written = co_await file_.write(host, content.io()); !written) {
    if (!counts_itself) (void)co_await change_counts(cluster, 1, -1);
    co_return io_error(written.error());
  }
  refcount_cache_.drop(host, g_.cluster_size);
  refcount_table_.set(index, host);
  overlap_map_.add(overlap::kRefcountBlock, host, g_.cluster_size);
  ++unsynced_references_;
  co_return Result<void>();
}

Task<Result<void>> Metadata::grow_refcount_table(uint64_t entries) {
  co_await file_.debug_event(DebugEvent::kReftableGrow);
  // The new table and the blocks that count it and themselves lie behind all that the old one
  // covers, where nothing can be in use.
  const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
  const uint64_t per_cluster = g_.cluster_size / 8;
  const uint64_t old_entries = refcount_table_.size();
  const uint64_t first = old_entries << g_.refcount_block_bits;
  uint64_t table_clusters = 0;
  uint64_t blocks = 0;
  uint64_t wanted = std::max(entries, old_entries + old_entries / 2);
  for (;;) {
    table_clusters = divide_up(wanted, per_cluster);
    blocks = 0;
    while (blocks * per_block < table_clusters + blocks) ++blocks;
    if (table_clusters * per_cluster >= old_entries + blocks) break;
    wanted = old_entries + blocks;
  }
  if (table_clusters << g_.cluster_bits > kMaxRefcountTableBytes) co_return io_error(EFBIG);
  const uint64_t host = first << g_.cluster_bits;
  const uint64_t table_host = host + (blocks << g_.cluster_bits);
  const uint64_t end = table_host + (table_clusters << g_.cluster_bits);
  if (end > max_host_) co_return io_error(EFBIG);

  // What the old entries refer to is on the disk before the new table repeats them.
  BB_CO_TRY(co_await write_back());

  // Also a write that fails leaves something there.
  file_end_ = std::max(file_end_, end);
  std::vector<uint64_t> table = refcount_table_.entries();
  table.resize(table_clusters * per_cluster);
  Buffer content = Buffer::zeroed(g_.cluster_size);
  for (uint64_t b = 0; b < blocks; ++b) {
    std::memset(content.data(), 0, content.size());
    const uint64_t counted = std::min(per_block, blocks + table_clusters - b * per_block);
    for (uint64_t i = 0; i < counted; ++i) {
      set_refcount(content.data(), i, g_.refcount_order, 1);
    }
    co_await file_.debug_event(DebugEvent::kRefblockAllocWriteBlocks);
    BB_CO_TRY(co_await file_.write(host + (b << g_.cluster_bits), content.io()));
    table[old_entries + b] = host + (b << g_.cluster_bits);
  }
  const Buffer table_bytes = ResidentTable::to_file(table, table_clusters << g_.cluster_bits);
  co_await file_.debug_event(DebugEvent::kRefblockAllocWriteTable);
  BB_CO_TRY(co_await file_.write(table_host, table_bytes.io()));
  BB_CO_TRY(co_await file_.flush());
  Header next = header_;
  next.refcount_table_offset = table_host;
  next.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  co_await file_.debug_event(DebugEvent::kRefblockAllocSwitchTable);
  BB_CO_TRY(co_await switch_header(std::move(next)));

  const uint64_t old_host = refcount_table_.offset();
  const uint64_t old_bytes = refcount_table_.bytes();
  free_table_later(overlap::kRefcountTable, old_host, old_bytes, FreeReason::kOther);
  overlap_map_.add(overlap::kRefcountTable, table_host, table_bytes.size());
  overlap_map_.add(overlap::kRefcountBlock, host, blocks << g_.cluster_bits);
  refcount_cache_.drop(host, blocks << g_.cluster_bits);
  refcount_table_.adopt(table_host, std::move(table));
  co_return Result<void>();
}

Task<Result<uint64_t>> Metadata::allocate_bytes(uint64_t bytes) {
  BB_ASSERT(bytes > 0 && bytes <= g_.cluster_size);
  co_await file_.debug_event(DebugEvent::kClusterAllocBytes);
  if (compressed_end_ != 0) {
    // The cluster that was packed last is counted once for each compressed cluster in it.
    auto count = co_await refcount(compressed_end_ >> g_.cluster_bits);
    if (!count) co_return io_error(count.error());
    if (*count == 0 || *count == g_.refcount_max()) compressed_end_ = 0;
  }
  const uint64_t start = compressed_end_;
  const uint64_t room = start == 0 ? 0 : g_.cluster_size - g_.in_cluster(start);
  uint64_t host = start;
  if (room >= bytes) {
    BB_CO_TRY(co_await change_counts(start >> g_.cluster_bits, 1, 1));
  } else {
    auto allocation = co_await allocate_unannounced(1, "compressed cluster");
    if (!allocation) co_return io_error(allocation.error());
    if (start != 0 && compressed_end_ == start &&
        allocation->host == g_.cluster_start(start) + g_.cluster_size) {
      if (auto counted = co_await change_counts(start >> g_.cluster_bits, 1, 1); !counted) {
        (void)co_await give_back(allocation->host, g_.cluster_size);
        co_return io_error(counted.error());
      }
    } else {
      host = allocation->host;
    }
  }
  compressed_end_ = g_.in_cluster(host + bytes) == 0 ? 0 : host + bytes;
  co_return host;
}

Task<Result<void>> Metadata::give_back(uint64_t host, uint64_t bytes) {
  co_return co_await add_refcounts(host, bytes, -1);
}

void Metadata::count_pending(const PendingFree& free, bool more) {
  // Unsigned: what is taken away was added before.
  const uint64_t bytes = more ? free.bytes : -free.bytes;
  if (free.of != FreeOf::kPlace) pending_bytes_ += bytes;
  if (discards(free.reason)) pending_space_ += bytes;
}

void Metadata::push_pending(const PendingFree& free) {
  count_pending(free, true);
  pending_.push_back(free);
}

void Metadata::free_later(uint64_t host, uint64_t bytes, FreeReason reason, FreeOf of) {
  if (!pending_.empty()) {
    PendingFree& last = pending_.back();
    // Never across the beginning of a request: where there is always one running, what was freed
    // first would wait for those that began last.
    if (last.when == clock_ && last.reason == reason && last.of == of &&
        last.host + last.bytes == host && g_.in_cluster(host) == 0) {
      count_pending(last, false);
      last.bytes += bytes;
      count_pending(last, true);
      return;
    }
  }
  push_pending(PendingFree{host, bytes, clock_, reason, of});
}

void Metadata::keep_place(uint64_t begin, uint64_t end) {
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    PendingFree& free = pending_[i];
    const uint64_t free_end = free.host + free.bytes;
    if (free.of != FreeOf::kPlace || free_end <= begin || end <= free.host) continue;
    PendingFree behind = free;
    count_pending(free, false);
    free.bytes = free.host < begin ? begin - free.host : 0;
    count_pending(free, true);
    if (free_end <= end) continue;
    behind.host = end;
    behind.bytes = free_end - end;
    count_pending(behind, true);
    pending_.insert(pending_.begin() + static_cast<std::ptrdiff_t>(i) + 1, behind);
  }
  std::erase_if(pending_, [](const PendingFree& free) { return free.bytes == 0; });
}

void Metadata::discard_place_later(uint64_t host) {
  if (!discards(FreeReason::kRequest)) return;
  free_later(host, g_.cluster_size, FreeReason::kRequest, FreeOf::kPlace);
}

void Metadata::free_entry_later(uint64_t entry, FreeReason reason) {
  if ((entry & kEntryCompressed) != 0) {
    // Compressed data shares clusters with its neighbours, and each of them is counted: never
    // merged.
    const CompressedExtent extent = parse_compressed(g_, entry);
    push_pending(PendingFree{extent.offset, extent.bytes, clock_, reason, FreeOf::kData});
    return;
  }
  const uint64_t host = entry & kOffsetMask;
  if (g_.external_data) {
    if ((entry & kEntryCopied) != 0) free_later(host, g_.cluster_size, reason, FreeOf::kPlace);
  } else if (host != 0) {
    free_later(host, g_.cluster_size, reason);
  }
}

}  // namespace blockbed::qcow2
