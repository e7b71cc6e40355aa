// RegionSet: places of a file that are taken.
//
// Problem: a check asks of many places whether one of many tables lies there; a table of a broken
// image may name a million of them.
//
// Contract: regions that overlap or touch are one. Both questions take a time that grows with the
// logarithm of their number. Units: any, the same everywhere. Threading: plain data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>

namespace blockbed::qcow2 {

class RegionSet {
 public:
  // Nothing when it is empty.
  void add(uint64_t begin, uint64_t end) {
    if (begin >= end) return;
    auto next = ends_.upper_bound(begin);
    if (next != ends_.begin() && std::prev(next)->second >= begin) {
      --next;
      begin = next->first;
    }
    while (next != ends_.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = ends_.erase(next);
    }
    ends_.emplace_hint(next, begin, end);
  }
  bool overlaps(uint64_t begin, uint64_t end) const {
    const auto next = ends_.lower_bound(end);
    return next != ends_.begin() && std::prev(next)->second > begin;
  }
  // Where the region ends in which `place` lies; `place` when it lies in none.
  uint64_t behind(uint64_t place) const {
    const auto next = ends_.upper_bound(place);
    return next == ends_.begin() ? place : std::max(place, std::prev(next)->second);
  }
  std::size_t size() const { return ends_.size(); }
  void clear() { ends_.clear(); }

 private:
  // By where they begin.
  std::map<uint64_t, uint64_t> ends_;
};

}  // namespace blockbed::qcow2
