// Mapping: from a range of the disk to a plan, without I/O.
//
// Problem: reading and writing differ in what they do, not in how they find where. Here a piece of
// an L2 table is read as a plan: how far one rule goes, and where the bytes are.
//
// Contract
//  - `piece` is a cached piece of an L2 table in file byte order (Geometry::l2_piece_bytes) that
//    holds the entry of `guest`; `length` may go beyond what the piece covers, the answer does not.
//  - map_read: the longest run from `guest` that is read in one way. map_write: the longest that is
//    written in one way.
//  - Entries come from the file: whatever they hold, the answer is a run of at least one byte or
//    kInvalid with a reason.
// Units: bytes. Threading: pure functions.
// Source: qcow2 specification, sections Cluster mapping and Extended L2 Entries.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/geometry.h"

namespace blockbed::qcow2 {

enum class Kind : uint8_t {
  kUnallocated,  // the backing file's bytes, or zeroes
  kZero,
  kData,
  kCompressed,
  kInvalid,
};

enum class Fault : uint8_t {
  kNone,
  kUnaligned,       // host offset not at a cluster
  kZeroInV2,        // zero flag in an image of version 2
  kCompressedData,  // compressed cluster with an external data file
  kWrongExternal,   // host offset that is not the guest offset with raw external data
  kSubclusters,     // impossible bitmap of subclusters
};

struct ReadRun {
  Kind kind = Kind::kUnallocated;
  Fault fault = Fault::kNone;
  // There is a host cluster: for kData the bytes' place, for the rest a preallocation.
  bool has_host = false;
  uint64_t length = 0;
  // Of the first byte; kCompressed: the whole entry.
  uint64_t host = 0;
};

enum class WriteKind : uint8_t {
  kInPlace,  // the bytes go to `host`, no table changes
  kReuse,    // to `host`; what is around them in their (sub)clusters is filled, then entries change
  kAllocate,  // new clusters
  kInvalid,
};

struct WriteRun {
  WriteKind kind = WriteKind::kAllocate;
  Fault fault = Fault::kNone;
  uint64_t length = 0;
  uint64_t host = 0;
  // kAllocate, kReuse: what must be filled before and behind the bytes reaches to multiples of
  // these.
  uint64_t head_unit = 0;
  uint64_t tail_unit = 0;
  Kind head_kind = Kind::kUnallocated;
  Kind tail_kind = Kind::kUnallocated;
};

struct L2Entry {
  uint64_t value = 0;
  uint64_t bitmap = 0;
};

inline L2Entry load_entry(const Geometry& g, const std::byte* piece, uint32_t index) {
  L2Entry entry;
  entry.value = load_be64(piece + index * g.entry_bytes);
  if (g.extended_l2) entry.bitmap = load_be64(piece + index * g.entry_bytes + 8);
  return entry;
}

inline void store_entry(const Geometry& g, std::byte* piece, uint32_t index, L2Entry entry) {
  store_be64(piece + index * g.entry_bytes, entry.value);
  if (g.extended_l2) store_be64(piece + index * g.entry_bytes + 8, entry.bitmap);
}

ReadRun map_read(const Geometry& g, const std::byte* piece, uint64_t guest, uint64_t length);
WriteRun map_write(const Geometry& g, const std::byte* piece, uint64_t guest, uint64_t length);

// The entry of one cluster whose bytes [begin, end) (guest offsets, multiples of the subcluster
// size or the cluster's bounds) are now data at `host_cluster`.
L2Entry with_data(const Geometry& g, L2Entry old, uint64_t host_cluster, uint64_t cluster_guest,
                  uint64_t begin, uint64_t end);

// How a whole cluster is stored: what an allocation must copy, what a discard frees.
struct ClusterState {
  Kind kind = Kind::kUnallocated;  // of the first subcluster, kInvalid when any is invalid
  Fault fault = Fault::kNone;
  bool has_host = false;
  bool copied = false;
  bool any_data = false;
};
ClusterState cluster_state(const Geometry& g, L2Entry entry, uint64_t cluster_guest);

}  // namespace blockbed::qcow2
