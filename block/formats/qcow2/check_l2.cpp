// Checker: entries of L2 tables.
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"
#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kAllocatedMask = 0xffffffffu;

// The descriptor as it stands: what lies beyond what an image can hold is a fault, not masked.
CompressedExtent whole_extent(const Geometry& g, uint64_t entry) {
  CompressedExtent extent = parse_compressed(g, entry);
  const uint64_t offset = entry & ((uint64_t{1} << g.compressed_shift) - 1);
  extent.offset = offset;
  return extent;
}

}  // namespace

struct Checker::L2Walk {
  uint64_t table = 0;
  uint64_t guest = 0;
  bool active = false;
  bool may_write = false;
  uint64_t next_contiguous = 0;
  Owner owner() const { return active ? Owner::kActiveData : Owner::kSnapshotData; }
};

bool Checker::look_at_compressed(L2Walk& walk, uint32_t index, L2Entry entry) {
  const uint64_t position = walk.table + uint64_t{index} * g_.entry_bytes;
  if ((entry.value & kEntryCopied) != 0) {
    corruption(FaultClass::kCopiedCompressed, position,
               fmt::format("ERROR: coffset={:#x}: copied flag must never be set for compressed "
                           "clusters",
                           whole_extent(g_, entry.value).offset));
    entry.value &= ~kEntryCopied;
  }
  if (g_.external_data) {
    corruption(
        FaultClass::kExternalData, position,
        fmt::format("ERROR compressed cluster {} with data file, entry={:#x}", index, entry.value));
    return false;
  }
  if (g_.extended_l2 && entry.bitmap != 0) {
    corruption(FaultClass::kSubclusters, position,
               fmt::format("ERROR compressed cluster {} with non-zero subcluster allocation "
                           "bitmap, entry={:#x}",
                           index, entry.value));
    return false;
  }
  const CompressedExtent extent = whole_extent(g_, entry.value);
  refer(
      Referrer{walk.owner(), walk.table, index, walk.guest + (uint64_t{index} << g_.cluster_bits)},
      extent.offset, extent.bytes);
  if (walk.active && first_walk_) {
    report_.allocated_clusters += times_;
    report_.compressed_clusters += times_;
    // Compressed clusters are fragmented by nature.
    report_.fragmented_clusters += times_;
  }
  return false;
}

bool Checker::look_at_entry(L2Walk& walk, uint32_t index, L2Entry& entry) {
  if ((entry.value & kEntryCompressed) != 0) return look_at_compressed(walk, index, entry);
  const uint64_t position = walk.table + uint64_t{index} * g_.entry_bytes;
  // QEMU lets bit 0 pass in extended entries too, where it has no meaning.
  if ((entry.value & kL2ReservedMask) != 0) {
    corruption(FaultClass::kReservedBits, position,
               fmt::format("ERROR found l2 entry with reserved bits set: {:x}", entry.value));
  }
  const uint64_t host = entry.value & kOffsetMask;
  // Another file's offset is no place in this one.
  const uint64_t place = g_.external_data ? position : host;
  const bool has_host = host != 0 || (g_.external_data && (entry.value & kEntryCopied) != 0);
  bool contains_data = true;
  if (g_.extended_l2) {
    const uint64_t allocated = entry.bitmap & kAllocatedMask;
    if (!has_host) {
      if (allocated != 0) {
        corruption(FaultClass::kSubclusters, position,
                   "ERROR: Unallocated cluster has non-zero subcluster allocation map");
      }
      return false;
    }
    if ((allocated & (entry.bitmap >> 32)) != 0) {
      corruption(FaultClass::kSubclusters, place,
                 fmt::format("ERROR offset={:x}: Allocated cluster has corrupted subcluster "
                             "allocation bitmap",
                             host));
    }
    contains_data = allocated != 0;
  } else {
    if (!has_host) return false;
    contains_data = (entry.value & kEntryZero) == 0;
  }

  if (walk.active && first_walk_) {
    report_.allocated_clusters += times_;
    if (walk.next_contiguous != 0 && host != walk.next_contiguous) {
      report_.fragmented_clusters += times_;
    }
    walk.next_contiguous = host + g_.cluster_size;
  }

  Referrer by{walk.owner(), walk.table, index, walk.guest + (uint64_t{index} << g_.cluster_bits)};
  if (g_.in_cluster(host) != 0) {
    by.is_dropped = !contains_data;
    if (contains_data) {
      corruption(FaultClass::kUnaligned, place,
                 fmt::format("ERROR offset={:x}: Data cluster is not properly aligned; L2 entry "
                             "corrupted.",
                             host));
    } else {
      repairable_tables_.insert(walk.table >> g_.cluster_bits);
      wrong_entry(FaultClass::kUnaligned, place, 0,
                  fmt::format("offset={:x}: Preallocated cluster is not properly aligned; L2 entry "
                              "corrupted.",
                              host),
                  walk.may_write ? EntryRepair::kDone : EntryRepair::kNotAsked);
      if (walk.may_write) {
        // It reads as zeroes, or as the backing file where it did, without the cluster.
        entry.value = g_.extended_l2 ? 0 : kEntryZero;
        return true;
      }
    }
  }
  if (!g_.external_data) refer(by, host, g_.cluster_size);
  return false;
}

Task<Result<void>> Checker::walk_l2(uint64_t table, uint64_t l1_index, bool active) {
  auto bytes = co_await read_table(table, g_.cluster_size);
  if (!bytes) co_return io_error(bytes.error());
  if (bytes->empty()) co_return Result<void>();
  L2Walk walk;
  walk.table = table;
  walk.guest = l1_index * g_.l2_coverage();
  walk.active = active;
  walk.may_write = repairs_all() && watched_ == nullptr && first_walk_ &&
                   g_.in_cluster(table) == 0 &&
                   !tables_of_others_.contains(table >> g_.cluster_bits) &&
                   !is_other_metadata(table, g_.cluster_size);
  for (uint32_t i = 0; i < uint32_t{1} << g_.l2_bits; ++i) {
    L2Entry entry = load_entry(g_, bytes->data(), i);
    if (entry.value == 0 && entry.bitmap == 0) continue;
    if (look_at_entry(walk, i, entry)) {
      store_entry(g_, bytes->data(), i, entry);
      const uint64_t at = uint64_t{i} * g_.entry_bytes;
      const uint64_t sector = align_down(at, kSectorSize);
      BB_CO_TRY(co_await write(table + sector, bytes->io(sector, kSectorSize)));
    }
    if (no_memory_) co_return io_error(ENOMEM);
  }
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
