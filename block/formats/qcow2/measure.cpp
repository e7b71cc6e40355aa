#include "block/formats/qcow2/measure.h"

#include <bit>

#include "block/formats/qcow2/geometry.h"

namespace blockbed::qcow2 {

namespace {

// Clusters of a refcount table and its blocks that count `clusters` and themselves.
uint64_t refcount_clusters(uint64_t clusters, uint64_t cluster_size, uint64_t refcount_bits) {
  const uint64_t counts_per_block = cluster_size * 8 / refcount_bits;
  const uint64_t blocks_per_table = cluster_size / 8;
  uint64_t own = 0;
  for (;;) {
    const uint64_t blocks = divide_up(clusters + own, counts_per_block);
    const uint64_t needed = blocks + divide_up(blocks, blocks_per_table);
    if (needed <= own) return own;
    own = needed;
  }
}

}  // namespace

Expected<Measure> measure(const CreateOptions& o, uint64_t data_bytes) {
  const uint64_t cluster = o.cluster_size;
  constexpr const char* kTooLarge = "The image size is too large (try using a larger cluster size)";
  const uint64_t entry = o.extended_l2 ? 16 : 8;
  if (o.size > INT64_MAX - (cluster - 1)) return fail(kTooLarge);
  const uint64_t disk = align_up(o.size, cluster);
  const uint64_t l2_tables = divide_up(disk / cluster, cluster / entry);
  const uint64_t l1_bytes = l2_tables * 8;
  if (l1_bytes > kMaxL1Bytes) return fail(kTooLarge);
  const uint64_t l1_clusters = divide_up(l1_bytes, cluster);
  const uint64_t tables = 1 + l1_clusters + l2_tables;
  const uint64_t all = tables + disk / cluster;
  const uint64_t counts = refcount_clusters(all, cluster, o.refcount_bits);

  Measure result;
  result.fully_allocated = (all + counts) * cluster;
  const bool preallocates =
      o.preallocation == Preallocation::kFalloc || o.preallocation == Preallocation::kFull;
  result.required = result.fully_allocated - disk + (preallocates ? disk : data_bytes);
  return result;
}

void DataCounter::add(uint64_t offset, uint64_t length) {
  const uint64_t end = align_up(offset + length, cluster_);
  const uint64_t begin = std::max(align_down(offset, cluster_), end_);
  if (end <= begin) return;
  bytes_ += end - begin;
  end_ = end;
}

uint64_t bitmaps_size(std::span<const StoredBitmap> bitmaps, uint64_t disk_size,
                      uint64_t cluster_size) {
  // The fixed part of an entry of the directory.
  constexpr uint64_t kEntryBytes = 24;
  uint64_t bytes = 0;
  uint64_t directory = 0;
  for (const StoredBitmap& bitmap : bitmaps) {
    if ((bitmap.flags & bitmap_flag::kInUse) != 0) continue;
    const uint64_t bits = divide_up(disk_size, uint64_t{1} << bitmap.granularity_bits);
    const uint64_t clusters = divide_up(divide_up(bits, 8), cluster_size);
    bytes += clusters * cluster_size + align_up(clusters * 8, cluster_size);
    directory += align_up(kEntryBytes + bitmap.name.size(), 8);
  }
  return bytes + align_up(directory, cluster_size);
}

}  // namespace blockbed::qcow2
