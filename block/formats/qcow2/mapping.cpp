#include "block/formats/qcow2/mapping.h"

#include <bit>

namespace blockbed::qcow2 {

namespace {

struct SubState {
  Kind kind = Kind::kUnallocated;
  Fault fault = Fault::kNone;
  bool has_host = false;
};

constexpr SubState invalid(Fault fault) { return {Kind::kInvalid, fault, false}; }

// Inline in the scanning loops: the common case is two comparisons.
inline SubState sub_state(const Geometry& g, L2Entry entry, uint64_t guest) {
  if ((entry.value & kEntryCompressed) != 0) {
    if (g.external_data) return invalid(Fault::kCompressedData);
    return {Kind::kCompressed, Fault::kNone, false};
  }
  const uint64_t host = entry.value & kOffsetMask;
  // With an external data file the cluster at offset 0 is known by the flag alone.
  const bool has_host = host != 0 || (g.external_data && (entry.value & kEntryCopied) != 0);
  if (!g.extended_l2) {
    if ((entry.value & kEntryZero) != 0) {
      if (g.version < 3) return invalid(Fault::kZeroInV2);
      if (has_host && (host & g.cluster_mask()) != 0) return invalid(Fault::kUnaligned);
      return {Kind::kZero, Fault::kNone, has_host};
    }
    if (!has_host) return {Kind::kUnallocated, Fault::kNone, false};
  } else {
    const uint64_t sub = (guest >> g.subcluster_bits) & 31;
    const bool zero = (entry.bitmap >> (32 + sub) & 1) != 0;
    const bool allocated = (entry.bitmap >> sub & 1) != 0;
    if (allocated && (zero || !has_host)) return invalid(Fault::kSubclusters);
    if (has_host && (host & g.cluster_mask()) != 0) return invalid(Fault::kUnaligned);
    if (zero) return {Kind::kZero, Fault::kNone, has_host};
    if (!allocated) return {Kind::kUnallocated, Fault::kNone, has_host};
  }
  if ((host & g.cluster_mask()) != 0) return invalid(Fault::kUnaligned);
  if (g.external_data && host != g.cluster_start(guest)) return invalid(Fault::kWrongExternal);
  return {Kind::kData, Fault::kNone, true};
}

// How far the state at `guest` reaches within its cluster: to the end of its subcluster at least.
inline uint64_t state_end(const Geometry& g, L2Entry entry, uint64_t guest) {
  const uint64_t cluster_end = g.cluster_start(guest) + g.cluster_size;
  if (!g.extended_l2 || (entry.value & kEntryCompressed) != 0) return cluster_end;
  const uint64_t sub = (guest >> g.subcluster_bits) & 31;
  const auto alike = [sub](uint64_t bits) {
    const uint32_t from_here = static_cast<uint32_t>(bits) >> sub;
    return (from_here & 1) != 0 ? std::countr_one(from_here) : std::countr_zero(from_here);
  };
  const auto subclusters =
      static_cast<uint64_t>(std::min(alike(entry.bitmap), alike(entry.bitmap >> 32)));
  const uint64_t begin = align_down(guest, g.subcluster_size());
  return std::min(begin + (subclusters << g.subcluster_bits), cluster_end);
}

}  // namespace

ReadRun map_read(const Geometry& g, const std::byte* piece, uint64_t guest, uint64_t length) {
  const uint64_t piece_end = align_down(guest, g.piece_coverage()) + g.piece_coverage();
  const uint64_t end = std::min(guest + length, piece_end);
  L2Entry entry = load_entry(g, piece, g.index_in_piece(guest));
  const SubState first = sub_state(g, entry, guest);
  ReadRun run;
  run.kind = first.kind;
  run.fault = first.fault;
  run.has_host = first.has_host;
  run.host = first.kind == Kind::kCompressed ? entry.value
                                             : (entry.value & kOffsetMask) + g.in_cluster(guest);
  uint64_t at = state_end(g, entry, guest);
  if (first.kind != Kind::kCompressed && first.kind != Kind::kInvalid) {
    // It goes on where a cluster ends, or not at all.
    while (at < end && g.in_cluster(at) == 0) {
      entry = load_entry(g, piece, g.index_in_piece(at));
      const SubState next = sub_state(g, entry, at);
      if (next.kind != first.kind || next.has_host != first.has_host) break;
      if (first.has_host && (entry.value & kOffsetMask) != run.host + (at - guest)) break;
      at = state_end(g, entry, at);
    }
  }
  run.length = std::min(at, end) - guest;
  return run;
}

ClusterState cluster_state(const Geometry& g, L2Entry entry, uint64_t cluster_guest) {
  ClusterState state;
  const SubState first = sub_state(g, entry, cluster_guest);
  state.kind = first.kind;
  state.fault = first.fault;
  state.has_host = first.has_host;
  state.copied = (entry.value & kEntryCopied) != 0;
  state.any_data = first.kind == Kind::kData || first.kind == Kind::kCompressed;
  if (!g.extended_l2 || first.kind == Kind::kCompressed) return state;
  const uint64_t end = cluster_guest + g.cluster_size;
  for (uint64_t at = state_end(g, entry, cluster_guest); at < end; at = state_end(g, entry, at)) {
    const SubState next = sub_state(g, entry, at);
    if (next.kind == Kind::kInvalid) {
      state.kind = Kind::kInvalid;
      state.fault = next.fault;
      return state;
    }
    state.any_data |= next.kind == Kind::kData;
  }
  return state;
}

namespace {

// New clusters are needed: nothing there, or something that must not be overwritten.
WriteRun map_allocation(const Geometry& g, const std::byte* piece, uint64_t guest, uint64_t end) {
  WriteRun run;
  run.kind = WriteKind::kAllocate;
  uint64_t at = g.cluster_start(guest);
  bool first = true;
  while (at < end) {
    const L2Entry entry = load_entry(g, piece, g.index_in_piece(at));
    const ClusterState state = cluster_state(g, entry, at);
    if (state.kind == Kind::kInvalid) {
      if (first) {
        run.kind = WriteKind::kInvalid;
        run.fault = state.fault;
        run.length = 1;
        return run;
      }
      break;
    }
    if (state.has_host && state.copied) break;
    const uint64_t unit = state.any_data ? g.cluster_size : g.subcluster_size();
    if (first) {
      run.head_unit = unit;
      run.head_kind = sub_state(g, entry, guest).kind;
      if (state.any_data) run.head_kind = Kind::kData;
      first = false;
    }
    run.tail_unit = unit;
    const uint64_t last = std::min(at + g.cluster_size, end) - 1;
    run.tail_kind = state.any_data ? Kind::kData : sub_state(g, entry, last).kind;
    at += g.cluster_size;
  }
  run.length = std::min(at, end) - guest;
  return run;
}

}  // namespace

WriteRun map_write(const Geometry& g, const std::byte* piece, uint64_t guest, uint64_t length) {
  const uint64_t piece_end = align_down(guest, g.piece_coverage()) + g.piece_coverage();
  const uint64_t end = std::min(guest + length, piece_end);
  L2Entry entry = load_entry(g, piece, g.index_in_piece(guest));
  const SubState first = sub_state(g, entry, guest);
  WriteRun run;
  if (first.kind == Kind::kInvalid) {
    run.kind = WriteKind::kInvalid;
    run.fault = first.fault;
    run.length = 1;
    return run;
  }
  if (!first.has_host || (entry.value & kEntryCopied) == 0) {
    return map_allocation(g, piece, guest, end);
  }
  // The cluster is ours alone. Data is overwritten; zeroes or holes in it become data.
  run.kind = first.kind == Kind::kData ? WriteKind::kInPlace : WriteKind::kReuse;
  run.host = (entry.value & kOffsetMask) + g.in_cluster(guest);
  run.head_kind = first.kind;
  run.tail_kind = first.kind;
  run.head_unit = run.tail_unit = g.subcluster_size();
  uint64_t at = state_end(g, entry, guest);
  while (at < end) {
    if (g.in_cluster(at) == 0) entry = load_entry(g, piece, g.index_in_piece(at));
    const SubState next = sub_state(g, entry, at);
    if (!next.has_host || (entry.value & kEntryCopied) == 0 ||
        (next.kind == Kind::kData) != (first.kind == Kind::kData) ||
        (entry.value & kOffsetMask) + g.in_cluster(at) != run.host + (at - guest)) {
      break;
    }
    run.tail_kind = next.kind;
    at = state_end(g, entry, at);
  }
  run.length = std::min(at, end) - guest;
  return run;
}

L2Entry with_data(const Geometry& g, L2Entry old, uint64_t host_cluster, uint64_t cluster_guest,
                  uint64_t begin, uint64_t end) {
  L2Entry entry;
  entry.value = host_cluster | kEntryCopied;
  if (!g.extended_l2) return entry;
  const uint64_t first = begin <= cluster_guest ? 0 : (begin - cluster_guest) >> g.subcluster_bits;
  const uint64_t last = end >= cluster_guest + g.cluster_size
                            ? 32
                            : (end - cluster_guest + g.subcluster_size() - 1) >> g.subcluster_bits;
  const uint64_t covered =
      last - first >= 32 ? 0xffffffffu : ((uint64_t{1} << (last - first)) - 1) << first;
  const bool compressed = (old.value & kEntryCompressed) != 0;
  entry.bitmap = compressed ? 0 : old.bitmap;
  entry.bitmap = (entry.bitmap | covered) & ~(covered << 32);
  return entry;
}

}  // namespace blockbed::qcow2
