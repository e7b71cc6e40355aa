// Counting references: what the refcounts of an image should be.
//
// Problem: an image with lazy refcounts that was not closed has wrong counts; and every test of the
// order of writes asks whether a crash left more than leaks.
//
// Contract: count_references walks everything that the header leads to: L1 and L2 tables of the
// disk and of every snapshot, data and compressed clusters, refcount structures, snapshot table,
// bitmaps. It changes nothing, and it never fails because of what an image holds: what cannot be
// followed is an error counted. repair_counts writes right counts and COPIED flags; it needs an
// image in which nothing was changed since it was opened. Bounds: memory is one counter for each
// cluster of the file (kMaxCheckedClusters). Units: clusters. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

struct CheckFinding {
  enum class What {
    kLeak,         // counted more often than referred to
    kUncounted,    // referred to more often than counted
    kBadEntry,     // an offset or flag that cannot be right
    kCopiedFlag,   // COPIED does not agree with the count
    kOutsideFile,  // a table or cluster behind the end of the file
  };
  What what;
  uint64_t cluster = 0;
  uint64_t counted = 0;
  uint64_t referred = 0;
};

struct CheckReport {
  uint64_t leaks = 0;
  uint64_t corruptions = 0;
  // An error of the file itself: the check is not complete.
  uint64_t check_errors = 0;
  uint64_t allocated_clusters = 0;
  uint64_t compressed_clusters = 0;
  // One behind the highest cluster in use.
  uint64_t end_cluster = 0;
  // The first ones only.
  std::vector<CheckFinding> findings;

  bool clean() const { return leaks == 0 && corruptions == 0 && check_errors == 0; }
  std::string describe() const;
};

Task<Result<CheckReport>> check_image(Storage& file, const Header& header);
// Brings counts and COPIED flags in line with the references. EIO when the image is damaged beyond
// that.
Task<Result<void>> repair_counts(Storage& file, const Header& header);

}  // namespace blockbed::qcow2
