// `cache=` of command lines: one word for three switches.
//
// Threading: plain data.
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

namespace blockbed {

struct CacheMode {
  std::string_view name;
  bool writethrough, direct, no_flush;
};

inline constexpr CacheMode kCacheModes[] = {
    {"none", false, true, false},      {"off", false, true, false},
    {"directsync", true, true, false}, {"writeback", false, false, false},
    {"unsafe", false, false, true},    {"writethrough", true, false, false},
};

// Null when there is no such mode.
constexpr const CacheMode* find_cache_mode(std::string_view name) {
  const auto* found = std::ranges::find(kCacheModes, name, &CacheMode::name);
  return found == std::end(kCacheModes) ? nullptr : found;
}

}  // namespace blockbed
