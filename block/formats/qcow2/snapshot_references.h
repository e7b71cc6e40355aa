// What an L1 table refers to, counted.
//
// Problem: a snapshot is one more L1 table over the same clusters. Making one counts every cluster
// once more, deleting one counts them once less; and the flag COPIED of the active tables must say
// which clusters are counted once.
//
// Contract: for the holder of the metadata lock, with nothing dirty among the L2 pieces (tables are
// read from the file, not through the cache, which a pass over all of them would empty). Units:
// bytes; entries of tables in host byte order. Errors: errno. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/snapshots.h"

namespace blockbed::qcow2 {

enum class Counting {
  kAdd,   // a failure takes back what it added
  kUndo,  // of an addition that never was referred to from the disk; goes on after failures
  kDrop,  // of references that the disk has no more; goes on after failures, tells the first
};

// The L1 table of a snapshot, without flags. check_l1() found that it can be one.
Task<Result<std::vector<uint64_t>>> read_l1(Metadata& metadata, const Snapshot& snapshot);
// Whole; EIO and a report when it cannot be where it is said to be.
Task<Result<void>> read_l2_table(Metadata& metadata, uint64_t table, Buffer& into);

// The clusters that the entries of one L2 table refer to.
Task<Result<void>> count_entries(Metadata& metadata, const Buffer& table, uint64_t table_offset,
                                 Counting counting);
// The clusters, and with `tables` the L2 tables, of an L1 table.
Task<Result<void>> count_l1(Metadata& metadata, std::span<const uint64_t> l1, Counting counting,
                            bool tables);

// Takes COPIED from all entries; whether any had it.
bool clear_copied(const Geometry& geometry, Buffer& table);

// References that were added, to be taken back when what they were for fails.
class AddedReferences {
 public:
  explicit AddedReferences(Metadata& metadata) : metadata_(metadata) {}
  void add(uint64_t host, uint64_t bytes) { added_.push_back({host, bytes}); }
  void keep() { added_.clear(); }
  // Unless the disk's header may refer to them.
  Task<void> take_back();

 private:
  struct Range {
    uint64_t host;
    uint64_t bytes;
  };
  Metadata& metadata_;
  std::vector<Range> added_;
};

}  // namespace blockbed::qcow2
