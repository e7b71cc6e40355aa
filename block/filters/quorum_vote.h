// Votes of a quorum: which of several answers counts.
//
// Threading: pure functions.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "block/runtime/buffers.h"
#include "block/runtime/result.h"

namespace blockbed {

// What copies read. Copies that read the same bytes are of one version, numbered in the order in
// which versions were met.
struct QuorumVersions {
  std::vector<std::size_t> of;
  std::vector<std::size_t> votes;

  // The version with the most votes; of equal ones the last that was met, as in QEMU.
  std::size_t winner() const;
  bool unanimous() const { return votes.size() == 1; }
};
// There is at least one copy; all have one size.
QuorumVersions count_versions(std::span<const IoVector> copies);

// The error that most copies had, of equal ones the last that was met; there is at least one
// failure.
Errno vote_on_errors(std::span<const Result<void>> results);

}  // namespace blockbed
