#include "block/filters/quorum_vote.h"

#include <algorithm>

#include "block/filters/compare_buffers.h"
#include "block/runtime/assert.h"

namespace blockbed {

std::size_t QuorumVersions::winner() const {
  return static_cast<std::size_t>(std::ranges::max_element(votes) - votes.begin());
}

QuorumVersions count_versions(std::span<const IoVector> copies) {
  BB_ASSERT(!copies.empty());
  QuorumVersions result;
  // The first copy of each version.
  std::vector<std::size_t> first;
  for (std::size_t copy = 0; copy < copies.size(); ++copy) {
    std::size_t version = 0;
    while (version < first.size() && first_difference(copies[first[version]], copies[copy])) {
      ++version;
    }
    if (version == first.size()) {
      first.push_back(copy);
      result.votes.push_back(0);
    }
    ++result.votes[version];
    result.of.push_back(version);
  }
  return result;
}

Errno vote_on_errors(std::span<const Result<void>> results) {
  int winner = 0;
  std::ptrdiff_t most = 0;
  for (const Result<void>& result : results) {
    if (result) continue;
    const auto votes = std::ranges::count_if(results, [&](const Result<void>& other) {
      return !other && other.error() == result.error();
    });
    if (votes <= most) continue;
    most = votes;
    winner = result.error().number();
  }
  BB_ASSERT(winner != 0);
  return Errno(winner);
}

}  // namespace blockbed
