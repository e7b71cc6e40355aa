// repair: making an image right again.
//
// Problem: leaks waste space, wrong counts and flags let a later write destroy what others still
// refer to. Both can be put right from the tables, which say who refers to what.
//
// Contract
//  - repair_image checks and repairs; findings, texts and totals as check_image has them, with what
//    was repaired among them. Whether all is well is told by another check.
//  - Repair::kLeaks lowers counts that are too high, and corrects COPIED flags when nothing else
//    was wrong. It fails with EIO, having changed nothing, when the refcount structures themselves
//    need to be built anew. Repair::kAll does all that can be done without guessing: counts, flags,
//    refcount structures, preallocated clusters that are not aligned, snapshot tables. What refers
//    outside of the file, or is compressed where it cannot be, is left for somebody to look at.
//  - The space of leaks is given back to the file system, but not where references are wrong too:
//    what they meant may be there.
//  - When nothing is wrong any more the dirty and corrupt bits are cleared; `header` follows.
//  - Nobody else uses the image meanwhile.
//
// Order of writes. Each step leaves an image in which a repair finds the same faults or fewer, and
// no data is lost by a crash between any two writes:
//   1. Single L2 entries without data that cannot be right become entries of nothing: one sector.
//   2. New refcount structures lie in clusters that nothing refers to and that are not the old
//      structures. They are complete and flushed before the header, in one sector, points to them;
//      what they count includes the old ones. Only then are those given back.
//   3. Counts in place: a count that is raised or lowered is right whether its neighbours are or
//   not.
//      Flushed before
//   4. COPIED flags, which are correct only with those counts.
//   5. A new snapshot table: counted, written, flushed; the header; flushed; the old one given
//   back. Where only entries at its end are left out the header says so, and nothing moves.
//   6. Flushed; space is given back; the bits in the header.
// Errors: errno. Threading: engine thread only.
#pragma once

#include "block/formats/qcow2/check.h"

namespace blockbed::qcow2 {

// Refcount blocks that the table places behind the end of the file become part of it when the file
// need not grow by more than this for all of them; else new structures are built. (QEMU grows the
// file to wherever the entry points.)
inline constexpr uint64_t kMaxGrowthForBlocks = uint64_t{1} << 30;

enum class Repair : uint8_t { kNone, kLeaks, kAll };

struct RepairOptions {
  Repair repair = Repair::kAll;
  // A cluster that is referred to and not counted at all makes QEMU build new refcount structures.
  // True: its count is raised in place where the structures are sound.
  bool raise_in_place = false;
  RepairOptions() = default;
  explicit RepairOptions(Repair which) : repair(which) {}
};

Task<Result<void>> repair_image(Storage& file, Header& header, RepairOptions options,
                                CheckReport& report, FindingSink sink);

// What opening an image that was not closed does. EIO when the check could not be completed;
// corruptions that cannot be repaired leave it dirty.
Task<Result<void>> repair_counts(Storage& file, Header& header);

}  // namespace blockbed::qcow2
