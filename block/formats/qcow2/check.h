// check: what is wrong with an image, and how wrong.
//
// Problem: reference counts, COPIED flags and tables of an image must agree. Whoever looks after
// images wants to know whether they do, in the numbers that qemu-img prints; whoever hunts a bug
// wants to know which cluster, what kind of fault, and who refers to it.
//
// Contract
//  - check_image changes nothing. It never fails because of what an image holds: faults are counted
//    and told. It fails with an errno when the file cannot be read, when the snapshot table cannot
//    be used at all (EFBIG, EINVAL; `table_error` of the report says why), or when counting would
//    take more memory than kMaxCountBytes (ENOMEM).
//  - Findings, their order, their texts and the totals are those of `qemu-img check` of QEMU 7.2;
//    docs/check.md and docs/conformance.md name the places where they are not, and why.
//  - The header must have been read with HeaderUse::kChecking (open.h).
//  - Repairing is in repair.h.
// Bounds: one counter a cluster that is referred to, as narrow as the image's own (count_table.h);
// the findings themselves are not kept but for the first kKeptFindings. The time grows with the
// number of tables, not with how often each is named or how long the file says it is; those that
// lie in holes of the file are not read. Units: bytes, clusters where a name says so. Threading:
// engine thread only. Source: qcow2 specification; output of qemu-img on the images of
// hostile_qcow2.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

enum class FaultClass : uint8_t {
  kLeak,              // counted more often than referred to
  kUncounted,         // referred to, and counted not at all: the cluster may be given away
  kCountTooLow,       // referred to more often than counted
  kCountOverflow,     // more references than a count of this width can say
  kCopiedFlag,        // COPIED does not agree with the count
  kCopiedCompressed,  // COPIED on compressed data
  kReservedBits,      // bits that must be zero
  kUnaligned,         // a table or cluster not at a cluster's start
  kOutsideFile,       // a table or cluster behind the end of the file
  kRefcountBlock,     // the refcount structures refer to themselves or to others' clusters
  kSubclusters,       // a bitmap of subclusters that cannot be
  kExternalData,      // something that images with an external data file cannot have
  kSnapshotTable,     // a snapshot's entry that cannot be used as it is
  kUnreadableCount,   // a count could not be read
  kNote,              // no fault: what was done or could not be done
};
std::string_view fault_class_name(FaultClass fault);

struct CheckFinding {
  FaultClass fault = FaultClass::kNote;
  // The text speaks of a repair.
  bool repaired = false;
  // In the file, and not in a data file; UINT64_MAX when it has no one place.
  uint64_t offset = UINT64_MAX;
  uint64_t bytes = 0;
  uint64_t counted = 0;
  uint64_t referred = 0;
  // A line as qemu-img prints it.
  std::string text;
};

struct CheckReport {
  uint64_t leaks = 0;
  uint64_t corruptions = 0;
  // An error of the file itself: the check is not complete.
  uint64_t check_errors = 0;
  uint64_t leaks_fixed = 0;
  uint64_t corruptions_fixed = 0;
  // Behind the highest cluster that is counted or referred to.
  uint64_t image_end_offset = 0;
  uint64_t total_clusters = 0;
  uint64_t allocated_clusters = 0;
  uint64_t compressed_clusters = 0;
  uint64_t fragmented_clusters = 0;
  // Why the snapshot table cannot be used: text, and advice for people.
  std::string table_error;
  std::string table_hint;
  // The first ones only.
  std::vector<CheckFinding> findings;

  bool clean() const { return leaks == 0 && corruptions == 0 && check_errors == 0; }
  std::string describe() const;
};

inline constexpr std::size_t kKeptFindings = 20;

using FindingSink = std::function<void(const CheckFinding&)>;

// `report` is filled as far as the check got, whatever is returned.
Task<Result<void>> check_image(Storage& file, const Header& header, CheckReport& report,
                               FindingSink sink);
Task<Result<CheckReport>> check_image(Storage& file, const Header& header);

// Who refers to clusters: asked after a check, for some of them.
struct Reference {
  // In the file, of the cluster referred to.
  uint64_t cluster_offset = 0;
  // "active L2 table at 0x40000, entry 3 (guest offset 0x30000)"
  std::string by;
  // Not so where what is referred to cannot be there, behind the end of the file say.
  bool is_counted = true;
};
// At most kMaxReferences are told.
inline constexpr std::size_t kMaxReferences = 4096;
Task<Result<std::vector<Reference>>> find_references(Storage& file, const Header& header,
                                                     const std::vector<uint64_t>& cluster_offsets);

}  // namespace blockbed::qcow2
