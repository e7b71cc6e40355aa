// Metadata: giving the end of the file back after the disk became shorter.
#include <algorithm>
#include <unordered_set>

#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

Task<Result<bool>> Metadata::block_is_empty(uint64_t index, bool& counts_itself) {
  const uint64_t block = refcount_table_[index] & kRefcountTableOffsetMask;
  const uint64_t own = block >> g_.cluster_bits;
  const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
  counts_itself = own >> g_.refcount_block_bits == index;
  const uint64_t per_piece = uint64_t{g_.refcount_piece_bytes} * 8 >> g_.refcount_order;
  for (uint64_t first = 0; first < per_block; first += per_piece) {
    const uint64_t cluster = (index << g_.refcount_block_bits) + first;
    auto piece = co_await refcount_piece(cluster);
    if (!piece) co_return io_error(piece.error());
    for (uint64_t word = 0; word < g_.refcount_piece_bytes; word += 8) {
      if (all_zero((*piece)->data() + word, 8)) continue;
      const uint64_t begin = word * 8 >> g_.refcount_order;
      const uint64_t end = (word + 8) * 8 >> g_.refcount_order;
      for (uint64_t i = begin; i < end; ++i) {
        const uint64_t count = get_refcount((*piece)->data(), i, g_.refcount_order);
        if (count == 0 || (cluster + i == own && count == 1)) continue;
        co_return false;
      }
    }
  }
  co_return true;
}

Task<Result<void>> Metadata::drop_empty_blocks() {
  struct Dropped {
    uint64_t index;
    uint64_t entry;
    bool counts_itself;
  };
  std::vector<Dropped> dropped;
  // A block that two entries name is counted wrong, and for a check to mend. A table can name one a
  // million times: it is not looked at as often.
  std::vector<uint64_t> places = refcount_table_.entries();
  for (uint64_t& place : places) place &= kRefcountTableOffsetMask;
  std::ranges::sort(places);
  const auto is_shared = [&places](uint64_t place) {
    const auto first = std::ranges::lower_bound(places, place);
    return first + 1 != places.end() && *(first + 1) == place;
  };
  // The first one counts the header.
  for (uint64_t index = 1; index < refcount_table_.size(); ++index) {
    const uint64_t entry = refcount_table_[index];
    // What is at no cluster's start is for a check to tell.
    if (entry == 0 || (entry & kRefcountTableOffsetMask & g_.cluster_mask()) != 0) continue;
    if (is_shared(entry & kRefcountTableOffsetMask)) continue;
    bool counts_itself = false;
    auto empty = co_await block_is_empty(index, counts_itself);
    if (!empty) co_return io_error(empty.error());
    if (*empty) dropped.push_back(Dropped{index, entry, counts_itself});
  }
  if (dropped.empty()) co_return Result<void>();
  for (const Dropped& block : dropped) refcount_table_.set(block.index, 0);
  auto done = co_await refcount_table_.write_dirty(file_, DebugEvent::kReftableUpdate);
  if (done) done = co_await file_.flush();
  if (!done) {
    // Whichever the disk has: in memory they stay blocks, so nobody uses their clusters.
    for (const Dropped& block : dropped) refcount_table_.set(block.index, block.entry);
    co_return done;
  }
  for (const Dropped& block : dropped) {
    const uint64_t host = block.entry & kRefcountTableOffsetMask;
    refcount_cache_.drop(host, g_.cluster_size);
    overlap_map_.remove(overlap::kRefcountBlock, host, g_.cluster_size);
    if (block.counts_itself) continue;
    // It was counted by a block that is there, or by one that went with it.
    const uint64_t cluster = host >> g_.cluster_bits;
    const uint64_t counted_by = cluster >> g_.refcount_block_bits;
    if (counted_by < refcount_table_.size() && refcount_table_[counted_by] != 0) {
      BB_CO_TRY(co_await change_counts(cluster, 1, -1));
    }
  }
  co_return co_await refcount_cache_.write_dirty();
}

Task<Result<uint64_t>> Metadata::end_of_use(uint64_t end) {
  const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
  const uint64_t per_piece = uint64_t{g_.refcount_piece_bytes} * 8 >> g_.refcount_order;
  // A file may be far longer than what its table can count, and the table may name one block all
  // over: neither is walked through.
  std::unordered_set<uint64_t> empty;
  end = std::min(end, refcount_table_.size() << g_.refcount_block_bits);
  while (end > 0) {
    const uint64_t block = (end - 1) >> g_.refcount_block_bits;
    const uint64_t begin = block * per_block;
    const bool whole = end == begin + per_block;
    if (refcount_table_[block] == 0 || empty.contains(refcount_table_[block])) {
      end = begin;
      continue;
    }
    while (end > begin) {
      const uint64_t first = align_down(end - 1, per_piece);
      auto piece = co_await refcount_piece(first);
      if (!piece) co_return io_error(piece.error());
      const uint64_t used = last_refcount((*piece)->data(), end - first, g_.refcount_order);
      if (used != 0) co_return first + used;
      end = first;
    }
    if (whole) empty.insert(refcount_table_[block]);
  }
  co_return end;
}

Task<Result<void>> Metadata::shorten_file() {
  BB_CO_TRY(co_await write_back());
  BB_CO_TRY(co_await refcount_cache_.write_dirty());
  BB_CO_TRY(co_await barrier());
  BB_CO_TRY(co_await drop_empty_blocks());
  BB_CO_TRY(co_await file_.flush());

  auto length = co_await file_.length();
  if (!length) co_return io_error(length.error());
  auto end = co_await end_of_use(align_up(*length, g_.cluster_size) >> g_.cluster_bits);
  if (!end) co_return io_error(end.error());
  const uint64_t bytes = *end << g_.cluster_bits;
  // An image whose header is in no use is not one to be cut.
  if (bytes == 0 || bytes >= *length) co_return Result<void>();
  TruncateOptions options;
  options.exact = false;
  auto done = co_await file_.truncate(bytes, options);
  if (!done) co_return io_error(EIO);
  file_end_ = std::min(file_end_, bytes);
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
