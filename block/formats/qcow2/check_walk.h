// Checker: one pass of a check over an image, with or without repairs.
//
// Problem: what refers to a cluster is spread over all tables of an image. A check follows every
// one of them, counts, then compares with what the refcount structures say; a repair does the same
// and changes what can be changed in place on the way.
//
// Contract: run() is called once. With Repair::kNone nothing is written. What is repaired in place
// is written in an order in which a crash leaves an image that is no worse than before; see
// repair.h for the whole. Tables in which entries must be changed are not touched when they lie in
// the place of other metadata, but for COPIED flags in the L1 tables of snapshots. Units: bytes
// unless a name says otherwise. Threading: engine thread only.
#pragma once

#include <bit>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/check_snapshots.h"
#include "block/formats/qcow2/count_table.h"
#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/region_set.h"
#include "block/formats/qcow2/repair.h"
#include "block/formats/qcow2/resident_table.h"

namespace blockbed::qcow2 {

class Checker {
 public:
  // All must outlive it. `header` follows what a repair changes.
  Checker(Storage& file, Header& header, RepairOptions options, CheckReport& report,
          FindingSink sink);

  Task<Result<void>> run();

  // Instead of run(): only who refers to these clusters.
  Task<Result<std::vector<Reference>>> find(const std::vector<uint64_t>& cluster_offsets);

 private:
  enum class Owner : uint8_t {
    kHeader,
    kActiveL1,
    kActiveL2,
    kActiveData,
    kSnapshotTable,
    kSnapshotL1,
    kSnapshotL2,
    kSnapshotData,
    kCrypto,
    kBitmapDirectory,
    kBitmapTable,
    kBitmapData,
    kRefcountTable,
    kRefcountBlock,
  };
  // Who refers: enough to say it in words if somebody asks.
  struct Referrer {
    Owner owner = Owner::kHeader;
    uint64_t table = 0;
    uint64_t index = 0;
    uint64_t guest = 0;
    // The entry holds no data, and a repair makes it one of nothing.
    bool is_dropped = false;
  };
  struct Region {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  // Tables that may lie in each other's place: where their number changes, and by how much.
  struct RepeatedStretches {
    // In bytes, what is to be looked at.
    std::map<uint64_t, int64_t> places;
    // In clusters, what is to be counted.
    std::map<uint64_t, int64_t> clusters;
  };
  struct Stretch {
    Region region;
    uint64_t times = 0;
  };
  struct RepeatedTable {
    // One of them.
    Referrer by;
    uint64_t times = 0;
  };
  // What becomes of an entry that a repair can make right where it is.
  enum class EntryRepair : uint8_t {
    kNotAsked,
    kDone,
    // The table is not written to. As in qemu-img, the words are those of a repair.
    kRefused,
  };
  // What a refcount block says, wherever the table names it.
  struct BlockTotals {
    // Counts that are not zero.
    uint64_t counted = 0;
    // Behind the last of them.
    uint64_t end = 0;
  };

  bool repairs_all() const { return options_.repair == Repair::kAll; }
  bool repairs() const { return options_.repair != Repair::kNone; }

  // --- telling
  void tell(CheckFinding finding);
  // Counted as often as the table that is looked at is named, or as often as is said.
  void corruption(FaultClass fault, uint64_t offset, std::string text);
  void corruption(FaultClass fault, uint64_t offset, std::string text, uint64_t times);
  // `text` follows the word that says whether it is repaired. Counted as corruption() does.
  void wrong_entry(FaultClass fault, uint64_t offset, uint64_t counted, std::string_view text,
                   EntryRepair repair);
  void note(std::string text);

  // --- references (check_walk.cpp)
  Task<Result<void>> walk();
  // False: it is not counted, because it is not there.
  bool refer(const Referrer& by, uint64_t offset, uint64_t bytes);
  // Tells of what is not.
  bool is_inside(uint64_t offset, uint64_t bytes);
  // Clusters. False: there is no memory for it.
  bool count(uint64_t first, uint64_t end, uint64_t times);
  // `bytes` of the file from `offset`, zeroes beyond its end.
  Task<Result<Buffer>> read_piece(uint64_t offset, uint64_t bytes);
  // The same; empty where nothing was read because all of it is zeroes.
  Task<Result<Buffer>> read_table(uint64_t offset, uint64_t bytes);
  Task<bool> is_in_hole(uint64_t offset, uint64_t bytes);
  // Every change of the file but discards.
  Task<Result<void>> write(uint64_t offset, IoVector bytes);
  Task<Result<void>> walk_l1(uint64_t offset, uint64_t entries, const SnapshotEntry* snapshot);
  Task<Result<void>> walk_l1_entries(uint64_t offset, uint64_t entries, bool active);
  Task<Result<void>> walk_snapshots();
  Task<Result<void>> walk_bitmaps();
  Task<Result<void>> walk_bitmap_table(uint64_t table, uint64_t entries);
  Task<Result<void>> read_refcount_table();
  Task<Result<void>> walk_refcount_structures();
  Task<Result<void>> look_at_refcount_block(uint64_t index, uint64_t entry);
  uint64_t file_clusters() const { return g_.clusters(length_); }
  uint64_t used_clusters() const { return std::max(file_clusters(), counted_clusters_); }

  // --- entries of L2 tables (check_l2.cpp)
  Task<Result<void>> walk_l2(uint64_t table, uint64_t l1_index, bool active);
  struct L2Walk;
  // True: the entry was made right and needs to be written.
  bool look_at_entry(L2Walk& walk, uint32_t index, L2Entry& entry);
  bool look_at_compressed(L2Walk& walk, uint32_t index, L2Entry entry);

  // --- tables that are named again and again (check_repeated.cpp)
  // Something is there that was counted.
  bool is_again(uint64_t table) const;
  bool can_look_again(uint64_t entries);
  // True: it is looked at in walk_repeated().
  bool is_looked_at_later(RepeatedStretches& tables, const Referrer& by, uint64_t offset,
                          uint64_t entries);
  Task<Result<void>> look_at_l2_later(const Referrer& by, uint64_t table);
  Task<Result<void>> walk_repeated();
  Task<Result<void>> walk_repeated_l2s();
  static std::vector<Stretch> stretches(std::map<uint64_t, int64_t> changes);

  // --- who refers to what (check_references.cpp)
  void watch(const Referrer& by, uint64_t offset, uint64_t bytes, bool is_counted);
  static std::string describe(const Referrer& by);
  // Which L2 tables lie in the place of something else: what is right there cannot be told, so
  // their entries are left alone.
  Task<Result<void>> find_tables_of_others();

  // --- counts (check_compare.cpp)
  Task<Result<void>> compare(Repair repair);
  Task<Result<void>> compare_block(uint64_t index, Repair repair);
  // With a whole block that was compared before, where the table named it first.
  Task<Result<void>> compare_again(uint64_t first, uint64_t end, BlockTotals block);
  void tell_wrong_count(uint64_t cluster, uint64_t counted, uint64_t referred, bool repaired);
  void tell_unreadable_counts(uint64_t first, uint64_t end, Errno error);
  // Behind the comparison, which told of what cannot be read; not of what it could read.
  void tell_lost_count(uint64_t cluster, Errno error);
  // The stored count; EIO where it cannot be known.
  Task<Result<uint64_t>> stored_count(uint64_t cluster);
  // The piece of a refcount block in which the cluster is counted. Null: nothing is counted there.
  Task<Result<Buffer*>> load_counts(uint64_t cluster);
  // `piece`: what load_counts() gave for it.
  uint64_t count_in(const Buffer* piece, uint64_t cluster) const;
  // log2 of the counts of a piece.
  uint32_t piece_bits() const {
    return static_cast<uint32_t>(std::countr_zero(g_.refcount_piece_bytes)) + 3 - g_.refcount_order;
  }
  // Of the cluster's count in its block, in bytes.
  uint64_t place_in_block(uint64_t cluster) const {
    const uint64_t in_block = cluster & ((uint64_t{1} << g_.refcount_block_bits) - 1);
    return in_block << g_.refcount_order >> 3;
  }
  // As the table has it.
  uint64_t block_offset(uint64_t index) const;
  // Where there is something to be read; 0 where there is nothing. EIO: nobody can read there.
  Result<uint64_t> readable_block(uint64_t index);

  // --- COPIED flags of the active tables (check_copied.cpp)
  Task<Result<void>> check_copied_flags();
  Task<Result<void>> write_l1_entries(const ResidentTable& l1,
                                      const std::vector<uint64_t>& changed);
  // True: something is wrong that could not be made right.
  Task<Result<bool>> check_copied_in_table(uint64_t table, bool repair);
  static EntryRepair entry_repair(bool asked, bool writable) {
    if (!asked) return EntryRepair::kNotAsked;
    return writable ? EntryRepair::kDone : EntryRepair::kRefused;
  }
  bool copied_flag_right(uint64_t count, uint64_t entry) const {
    return (count == 1) == ((entry & kEntryCopied) != 0);
  }

  // --- what must not be written over (check_walk.cpp)
  void protect(RegionSet& places, uint64_t offset, uint64_t bytes) const;
  // Metadata lies there, and not L2 tables.
  bool is_other_metadata(uint64_t offset, uint64_t bytes) const;
  // The same for COPIED flags: in L1 tables of snapshots they say nothing.
  bool is_flag_of_others(uint64_t offset, uint64_t bytes) const;
  Region l1_region() const;

  // --- larger repairs (repair.cpp)
  Task<Result<void>> repair_counts(uint64_t corruptions_of_walk);
  void freed(uint64_t cluster);
  Task<void> discard_freed();
  Task<Result<void>> rebuild_and_compare();
  Task<Result<void>> rebuild();
  // Where new structures go: blocks by index.
  struct NewStructures {
    std::map<uint64_t, uint64_t> blocks;
    uint64_t table = 0;
    uint64_t table_clusters = 0;
  };
  std::optional<NewStructures> place_structures();
  // `clusters` in a row that nothing refers to; counted once afterwards. Nothing: not in reach.
  std::optional<uint64_t> take_free(uint64_t clusters);
  // The first cluster from this one on that nothing refers to, and where nothing lies.
  uint64_t next_free(uint64_t cluster) const;
  std::set<uint64_t> counted_blocks() const;
  Task<Result<void>> write_new_block(uint64_t index, uint64_t offset);
  Task<Result<void>> repair_snapshot_table();
  Task<Result<void>> write_snapshot_table();
  Task<Result<void>> write_snapshot_fields(uint64_t offset);
  // What the new structures took the place of; nobody is told.
  Task<Result<void>> give_back_old_structures();
  bool can_count(uint64_t first, uint64_t clusters) const;
  Task<Result<void>> store_counts(uint64_t first, uint64_t clusters);

  Storage& file_;
  Header& h_;
  const Geometry g_;
  const RepairOptions options_;
  CheckReport& report_;
  FindingSink sink_;

  uint64_t length_ = 0;
  // To which blocks behind the end may bring it.
  uint64_t longest_ = 0;
  // The hole that was found last.
  Region hole_;
  // The table that was read last held nothing: the next one may lie in a hole.
  bool read_zeroes_ = false;
  CountTable counts_;
  // Behind the highest cluster that was counted.
  uint64_t counted_clusters_ = 0;
  bool no_memory_ = false;
  // How often the table that is looked at is named.
  uint64_t times_ = 1;
  // Entries of tables that were looked at before.
  uint64_t looked_again_ = 0;
  RepeatedStretches snapshot_l1s_;
  RepeatedStretches bitmap_tables_;
  // By offset.
  std::map<uint64_t, RepeatedTable> repeated_l2s_;
  std::map<uint64_t, RepeatedTable> repeated_snapshot_l2s_;
  // New refcount structures are needed: the old ones are broken, or count too little.
  bool broken_structures_ = false;
  bool uncounted_ = false;
  CheckedSnapshots snapshots_;
  // Faults of the snapshot table's entries that were not made right.
  uint64_t corruptions_of_snapshots_ = 0;
  // In clusters; what leaked and is not counted any more.
  std::vector<Region> freed_;
  std::vector<uint64_t> refcount_table_;
  bool snapshot_table_counted_ = false;
  uint64_t free_hint_ = 0;
  bool told_unaligned_block_ = false;
  // Whole clusters with metadata but L1 and L2 tables.
  RegionSet protected_;
  RegionSet protected_snapshot_l1s_;
  // Whole clusters behind the end that entries point to: the file must not grow there.
  RegionSet dangling_;
  // Of refcount blocks, by where they lie; emptied when there are too many.
  std::unordered_map<uint64_t, Buffer> count_pieces_;
  // Of the blocks that were compared, by where they lie.
  std::unordered_map<uint64_t, BlockTotals> block_totals_;
  bool first_walk_ = true;

  // Clusters of L2 tables with preallocations that can be repaired, and those of them that are not
  // tables alone.
  std::set<uint64_t> repairable_tables_;
  std::set<uint64_t> tables_of_others_;
  const std::set<uint64_t>* watched_ = nullptr;
  std::vector<Reference> references_;
};

}  // namespace blockbed::qcow2
