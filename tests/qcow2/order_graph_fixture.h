// OrderGraph: all that the disk may refer to, in whatever state a power cut leaves an image now.
//
// Problem: the order of writes speaks of what "nothing on the disk refers to" and of what is
// "counted on the disk". A plain walk of one state cannot tell; this one follows every version of
// every entry (order_disk_fixture.h) from every version of the header.
//
// Contract: read() at one instant; the result is plain data. Its own parser, which takes for
// granted that tables lie where they can, and that nothing is encrypted. Units: bytes; clusters and
// sectors by number. Threading: plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "block/formats/qcow2/geometry.h"
#include "tests/qcow2/order_disk_fixture.h"

namespace blockbed::qcow2::test {

// What a cluster is to those who refer to it.
enum class Part : uint8_t {
  kNothing,
  kHeader,
  kData,
  kCompressed,
  kL2,
  kL1,
  kRefcountBlock,
  kRefcountTable,
  kSnapshotTable,
  kBitmapDirectory,
  kBitmapTable,
  kBitmapBits,
};

// As far as the order of writes goes.
struct HeaderFields {
  std::vector<std::byte> bytes;
  uint32_t version = 0;
  uint32_t cluster_bits = 0;
  uint64_t size = 0;
  uint32_t l1_size = 0;
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible = 0;
  uint32_t refcount_order = 4;
  // The data file is the disk.
  bool raw = false;
  // (number, bytes, offset) of the directory, if the feature bit is set.
  using Bitmaps = std::tuple<uint32_t, uint64_t, uint64_t>;
  std::optional<Bitmaps> bitmaps;

  bool dirty() const { return (incompatible & 1) != 0; }
  bool same_tables(const HeaderFields& other) const {
    return l1_size == other.l1_size && l1_offset == other.l1_offset &&
           refcount_table_offset == other.refcount_table_offset &&
           refcount_table_clusters == other.refcount_table_clusters &&
           snapshot_count == other.snapshot_count && snapshots_offset == other.snapshots_offset &&
           refcount_order == other.refcount_order;
  }
};

struct OrderGraph {
  // What may be on the disk together with one version of the header.
  struct View {
    HeaderFields header;
    // How often each cluster may be referred to, at most.
    std::vector<uint32_t> references;
    // The disk's entry for it may say COPIED.
    std::vector<uint8_t> copied;
    // Where the disk's references end, at most.
    uint64_t guest_end = 0;
    // An entry may have the flag that version 2 does not know.
    bool zero_flags = false;
    // Where the flags of bitmaps are, and of those that may be believed.
    std::set<uint64_t> flags;
    std::set<uint64_t> believed;
  };
  struct Table {
    Part part = Part::kNothing;
    // The disk's, not a snapshot's.
    bool active = false;
    // What reads see refers to it.
    bool now = false;
    // Of a refcount block.
    uint64_t first_counted = 0;
    uint32_t order = 4;
    // The entry that refers to it.
    uint64_t place = 0;
  };
  // An L2 entry says that the bytes at `target` are the disk's. Of a standard cluster: which parts.
  struct Content {
    uint64_t place = 0;
    uint64_t target = 0;
    uint32_t parts = 0;
    bool compressed = false;
  };

  std::vector<View> views;
  // As reads see it: the version of the header, the references.
  std::size_t newest = 0;
  std::vector<uint32_t> now;
  std::vector<Part> parts;
  // By cluster: all tables, and the clusters of bits.
  std::unordered_map<uint64_t, Table> tables;
  // Ordered by place and target.
  std::vector<Content> content;
  // By the number of a part of a cluster: it holds what the disk or a snapshot shows, as reads see
  // it and in any state.
  std::vector<uint8_t> shown;
  std::vector<uint8_t> may_be_shown;

  const HeaderFields& header() const { return views[newest].header; }
  uint32_t most_references(uint64_t cluster) const;
  uint32_t references_now(uint64_t cluster) const {
    return cluster < now.size() ? now[cluster] : 0;
  }
  Part part(uint64_t cluster) const {
    return cluster < parts.size() ? parts[cluster] : Part::kNothing;
  }
  const Table* table(uint64_t cluster) const {
    const auto at = tables.find(cluster);
    return at == tables.end() ? nullptr : &at->second;
  }

  // Where the refcount table refers to it; 0 when it is no refcount block.
  uint64_t block_place(uint64_t cluster) const {
    const Table* known = table(cluster);
    return known != nullptr && known->part == Part::kRefcountBlock ? known->place : 0;
  }

  static bool has(const std::vector<uint8_t>& parts, uint64_t number) {
    return number < parts.size() && parts[number] != 0;
  }

  static OrderGraph read(const OrderDisk& image, const Geometry& geometry);
};

struct LeastCount {
  uint64_t count = 0;
  // It is so because the refcount table may not refer to the block.
  bool unlinked = false;
};
// What the disk counts `cluster` with at least. `place`: of the entry of the refcount table that
// refers to it, or 0. The block that counts it may be named in the same sector, and is there with
// it.
LeastCount least_count(const OrderDisk& image, const HeaderFields& header, uint64_t cluster,
                       uint64_t place);

// Of the disk that reads see.
HeaderFields newest_header(const OrderDisk& image);

}  // namespace blockbed::qcow2::test
