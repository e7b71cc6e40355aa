// Metadata: other tables in place of the present ones, in one step.
//
// Size, L1 table, refcount table and snapshot table are named by neighbouring fields in the first
// sector of the header, so one write changes all of them or none.
#include <algorithm>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

Task<Result<void>> Metadata::sync() {
  BB_CO_TRY(co_await write_back());
  // Also with lazy counts: the tables to come share clusters, which a repair must find counted.
  BB_CO_TRY(co_await refcount_cache_.write_dirty());
  co_return co_await barrier();
}

Metadata::TableSwitch Metadata::present_tables() const {
  TableSwitch present;
  present.size = header_.size;
  present.snapshot_count = header_.snapshot_count;
  present.snapshots_offset = header_.snapshots_offset;
  return present;
}

Task<Result<void>> Metadata::write_table_fields(const Header& fields) {
  // From `size` to the width of the counts; version 2 ends with the snapshots.
  constexpr uint64_t kCompatible = 80;
  constexpr uint64_t kRefcountOrder = 96;
  constexpr uint64_t kEnd = kRefcountOrder + 4;
  std::byte bytes[kEnd - field::kSize];
  auto at = [&bytes](uint64_t position) { return bytes + (position - field::kSize); };
  store_be64(at(field::kSize), fields.size);
  store_be<uint32_t>(at(field::kSize + 8), fields.crypt_method);
  store_be<uint32_t>(at(field::kL1Size), fields.l1_size);
  store_be64(at(field::kL1Size + 4), fields.l1_offset);
  store_be64(at(field::kRefcountTable), fields.refcount_table_offset);
  store_be<uint32_t>(at(field::kRefcountTable + 8), fields.refcount_table_clusters);
  store_be<uint32_t>(at(field::kSnapshots), fields.snapshot_count);
  store_be64(at(field::kSnapshots + 4), fields.snapshots_offset);
  store_be64(at(kCompatible), fields.compatible_features);
  store_be64(at(field::kAutoclear), fields.autoclear_features);
  store_be<uint32_t>(at(kRefcountOrder), fields.refcount_order);
  const uint64_t end = fields.version >= 3 ? kEnd : kHeaderBytesV2;
  header_unsure_ = true;
  uint64_t features = 0;
  do {
    // A request that finds the image corrupt says so in the header, whoever holds the lock.
    features = header_.incompatible_features;
    store_be64(at(field::kIncompatible), features);
    BB_CO_TRY(co_await write_header_field(field::kSize, bytes, end - field::kSize));
  } while (features != header_.incompatible_features);
  header_unsure_ = false;
  co_return Result<void>();
}

Task<Result<void>> Metadata::switch_header(Header next) {
  if (auto done = co_await write_table_fields(next); !done) {
    (void)co_await write_table_fields(header_);
    co_return done;
  }
  next.incompatible_features = header_.incompatible_features;
  header_ = std::move(next);
  co_return Result<void>();
}

Task<Result<void>> Metadata::switch_tables(TableSwitch next) {
  BB_ASSERT(idle() && l2_cache_.dirty_count() == 0 && !l1_.dirty() && !refcount_table_.dirty());
  Header header = header_;
  header.size = next.size;
  header.snapshot_count = next.snapshot_count;
  header.snapshots_offset = next.snapshots_offset;
  if (next.other_l1) {
    header.l1_size = static_cast<uint32_t>(next.l1.size());
    header.l1_offset = next.l1_offset;
  }
  BB_CO_TRY(co_await switch_header(std::move(header)));
  if (next.other_l1) {
    l1_.adopt(next.l1_offset, std::move(next.l1));
    l2_cache_.drop_all();
  }
  co_return Result<void>();
}

Task<Result<void>> Metadata::drop_reference(uint64_t host, uint64_t bytes, FreeReason reason,
                                            FreeOf of) {
  std::vector<HostRange> unused;
  const uint64_t first = host >> g_.cluster_bits;
  const uint64_t last = (host + bytes - 1) >> g_.cluster_bits;
  auto counted = co_await change_counts(first, last - first + 1, -1, &unused);
  for (const HostRange& range : unused) {
    if (of == FreeOf::kTable) l2_cache_.drop(range.host, range.bytes);
    if (discards(reason)) (void)co_await file_.discard(range.host, range.bytes);
  }
  co_return counted;
}

std::optional<uint64_t> Metadata::refcount_here(uint64_t cluster) {
  const uint64_t block_index = cluster >> g_.refcount_block_bits;
  if (block_index >= refcount_table_.size()) return 0;
  const uint64_t block = refcount_table_[block_index] & kRefcountTableOffsetMask;
  if (block == 0) return 0;
  if ((block & g_.cluster_mask()) != 0) return std::nullopt;
  const uint64_t index = cluster & ((uint64_t{1} << g_.refcount_block_bits) - 1);
  const uint64_t byte = (index << g_.refcount_order) >> 3;
  const uint64_t in_block = align_down(byte, g_.refcount_piece_bytes);
  const Piece* piece = refcount_cache_.find(block + in_block);
  if (piece == nullptr) return std::nullopt;
  const uint64_t first = (in_block << 3) >> g_.refcount_order;
  return get_refcount(piece->data(), index - first, g_.refcount_order);
}

}  // namespace blockbed::qcow2
