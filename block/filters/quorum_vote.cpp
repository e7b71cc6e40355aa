#include "block/filters/quorum_vote.h"

#include <algorithm>
#include <ranges>
#include <utility>
#include <vector>

#include "block/filters/compare_buffers.h"
#include "block/runtime/assert.h"

namespace blockbed {

std::size_t QuorumVersions::winner() const {
  const auto last_of_most = std::ranges::max_element(votes | std::views::reverse);
  return static_cast<std::size_t>(last_of_most.base() - votes.begin()) - 1;
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
  // In the order in which they were met.
  std::vector<std::pair<Errno, std::size_t>> votes;
  for (const Result<void>& result : results) {
    if (result) continue;
    const auto known =
        std::ranges::find(votes, result.error(), [](const auto& v) { return v.first; });
    if (known == votes.end()) {
      votes.emplace_back(result.error(), 1);
    } else {
      ++known->second;
    }
  }
  BB_ASSERT(!votes.empty());
  const auto count = [](const auto& vote) { return vote.second; };
  return std::ranges::max_element(votes | std::views::reverse, {}, count)->first;
}

}  // namespace blockbed
