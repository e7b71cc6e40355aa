// Geometry: the sizes that follow from an image's header, and the bits of its table entries.
//
// Problem: nearly all arithmetic of the format is shifts by numbers that the header gives; they are
// computed once.
//
// Units: bytes unless a name says otherwise; "index" counts entries. Threading: plain data.
// Source: the qcow2 specification (docs/interop/qcow2.txt of QEMU), sections Header, Cluster
// mapping, Host cluster management, Extended L2 Entries.
#pragma once

#include <algorithm>
#include <cstdint>

namespace blockbed::qcow2 {

inline constexpr uint32_t kMinClusterBits = 9;
inline constexpr uint32_t kMaxClusterBits = 21;
// Extended entries divide a cluster into 32 parts of 512 bytes or more.
inline constexpr uint32_t kMinExtendedClusterBits = 14;
inline constexpr uint32_t kMaxRefcountOrder = 6;

// Bounds of what a header may ask for, all QEMU's; each is the largest allocation that opening
// makes.
inline constexpr uint64_t kMaxL1Bytes = uint64_t{32} << 20;
inline constexpr uint64_t kMaxRefcountTableBytes = uint64_t{8} << 20;
inline constexpr uint32_t kMaxSnapshots = 65536;
inline constexpr uint64_t kMaxSnapshotTableBytes = uint64_t{1024} * kMaxSnapshots;
inline constexpr uint32_t kMaxBackingNameBytes = 1023;

// Pieces of tables as they are cached: small enough that a random access costs little memory and
// little writing, large enough that a sequential scan does not crawl.
inline constexpr uint32_t kDefaultL2PieceBytes = 4096;
inline constexpr uint32_t kRefcountPieceBytes = 16384;

inline constexpr uint64_t kEntryCopied = uint64_t{1} << 63;
inline constexpr uint64_t kEntryCompressed = uint64_t{1} << 62;
inline constexpr uint64_t kEntryZero = 1;
// Bits 9..55.
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00u;
inline constexpr uint64_t kL1ReservedMask = 0x7f000000000001ffu;
// Of standard clusters with and without extended entries: bit 0 is the zero flag without.
inline constexpr uint64_t kL2ReservedMask = 0x3f000000000001feu;
inline constexpr uint64_t kL2ReservedMaskExtended = 0x3f000000000001ffu;
// Bits 9..63.
inline constexpr uint64_t kRefcountTableOffsetMask = 0xfffffffffffffe00u;
inline constexpr uint64_t kSectorSize = 512;
// L2 entries cannot point beyond bit 55.
inline constexpr uint64_t kMaxHostOffset = uint64_t{1} << 56;

inline constexpr uint64_t kAllSubclustersAllocated = 0x00000000ffffffffu;
inline constexpr uint64_t kAllSubclustersZero = 0xffffffff00000000u;

constexpr uint64_t align_down(uint64_t value, uint64_t unit) { return value & ~(unit - 1); }
constexpr uint64_t align_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) & ~(unit - 1);
}
constexpr uint64_t divide_up(uint64_t value, uint64_t unit) {
  return value / unit + (value % unit != 0);
}

struct Geometry {
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint64_t cluster_size = 65536;
  bool extended_l2 = false;
  bool external_data = false;
  bool raw_external_data = false;
  uint32_t refcount_order = 4;

  uint32_t entry_bytes = 8;
  uint32_t subclusters = 1;
  uint32_t subcluster_bits = 16;
  // log2 of the entries of an L2 table, and of a cached piece of one.
  uint32_t l2_bits = 13;
  uint32_t l2_piece_bytes = kDefaultL2PieceBytes;
  uint32_t l2_piece_bits = 9;
  // log2 of the entries of a refcount block.
  uint32_t refcount_block_bits = 15;
  uint32_t refcount_piece_bytes = kRefcountPieceBytes;
  // Position of the sector count in the descriptor of a compressed cluster.
  uint32_t compressed_shift = 54;

  Geometry() = default;
  Geometry(uint32_t image_version, uint32_t bits, uint32_t order, bool extended,
           uint32_t piece_bytes)
      : version(image_version),
        cluster_bits(bits),
        cluster_size(uint64_t{1} << bits),
        extended_l2(extended),
        refcount_order(order) {
    entry_bytes = extended ? 16 : 8;
    subclusters = extended ? 32 : 1;
    subcluster_bits = extended ? bits - 5 : bits;
    l2_bits = bits - (extended ? 4 : 3);
    l2_piece_bytes = static_cast<uint32_t>(std::min<uint64_t>(piece_bytes, cluster_size));
    l2_piece_bits = static_cast<uint32_t>(__builtin_ctz(l2_piece_bytes / entry_bytes));
    refcount_block_bits = bits + 3 - order;
    refcount_piece_bytes =
        static_cast<uint32_t>(std::min<uint64_t>(kRefcountPieceBytes, cluster_size));
    compressed_shift = 62 - (bits - 8);
  }

  uint64_t subcluster_size() const { return uint64_t{1} << subcluster_bits; }
  uint64_t cluster_mask() const { return cluster_size - 1; }
  uint64_t in_cluster(uint64_t offset) const { return offset & cluster_mask(); }
  uint64_t cluster_start(uint64_t offset) const { return offset & ~cluster_mask(); }
  uint64_t cluster_index(uint64_t offset) const { return offset >> cluster_bits; }
  uint64_t clusters(uint64_t bytes) const {
    return (bytes >> cluster_bits) + ((bytes & cluster_mask()) != 0);
  }

  uint64_t l2_coverage() const { return uint64_t{1} << (l2_bits + cluster_bits); }
  uint64_t piece_coverage() const { return uint64_t{1} << (l2_piece_bits + cluster_bits); }
  uint64_t l1_index(uint64_t guest) const { return guest >> (l2_bits + cluster_bits); }
  uint64_t l1_entries(uint64_t length) const { return divide_up(length, l2_coverage()); }
  // Where, inside the L2 table, the piece with the entry of `guest` starts.
  uint64_t piece_in_table(uint64_t guest) const {
    const uint64_t entry = (guest >> cluster_bits) & ((uint64_t{1} << l2_bits) - 1);
    return (entry >> l2_piece_bits) * l2_piece_bytes;
  }
  uint32_t index_in_piece(uint64_t guest) const {
    return static_cast<uint32_t>((guest >> cluster_bits) & ((uint64_t{1} << l2_piece_bits) - 1));
  }

  uint64_t refcount_max() const {
    return refcount_order == 6 ? UINT64_MAX : (uint64_t{1} << (uint64_t{1} << refcount_order)) - 1;
  }
  uint32_t refcount_bits() const { return 1u << refcount_order; }

  uint64_t l2_reserved_mask() const {
    return extended_l2 ? kL2ReservedMaskExtended : kL2ReservedMask;
  }
};

// Where the bytes of a compressed cluster are, and at most how many.
struct CompressedExtent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

inline CompressedExtent parse_compressed(const Geometry& g, uint64_t entry) {
  CompressedExtent extent;
  extent.offset = entry & ((uint64_t{1} << g.compressed_shift) - 1) & (kMaxHostOffset - 1);
  const uint64_t count_mask = (uint64_t{1} << (62 - g.compressed_shift)) - 1;
  const uint64_t sectors = ((entry >> g.compressed_shift) & count_mask) + 1;
  extent.bytes = sectors * kSectorSize - (extent.offset & (kSectorSize - 1));
  return extent;
}

inline uint64_t make_compressed(const Geometry& g, uint64_t offset, uint64_t bytes) {
  const uint64_t sectors = (offset + bytes - 1) / kSectorSize - offset / kSectorSize;
  return kEntryCompressed | (sectors << g.compressed_shift) | offset;
}

}  // namespace blockbed::qcow2
