// Progress: how much of a piece of work is done, and how much is known to be left.
//
// Contract: what is left may grow and shrink while the work goes on; what is done only grows.
// Units: whatever the work counts, bytes mostly. Threading: plain data, engine thread only.
#pragma once

#include <cstdint>

namespace blockbed {

struct Progress {
  uint64_t done = 0;
  uint64_t remaining = 0;

  uint64_t total() const { return done + remaining; }
};

}  // namespace blockbed
