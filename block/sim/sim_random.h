// SimRandom: chance that a seed decides.
//
// Contract: the same seed gives the same numbers on every machine (no std distribution is used,
// since the standard does not fix theirs). Separate parts of a simulation use separate generators,
// so that one more draw in one part does not change what happens in another.
// Units: chances are in percent. Threading: plain data.
#pragma once

#include <cstdint>

#include "block/runtime/assert.h"

namespace blockbed::sim {

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed, uint64_t part = 0) : state_(seed * 0xD1342543DE82EF95 + part) {
    next();
  }

  // splitmix64
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  // 0 to bound - 1.
  uint64_t below(uint64_t bound) {
    BB_ASSERT(bound > 0);
    return next() % bound;
  }
  // Both ends included.
  int64_t between(int64_t low, int64_t high) {
    BB_ASSERT(low <= high);
    return low + static_cast<int64_t>(below(static_cast<uint64_t>(high - low) + 1));
  }
  bool percent(unsigned chance) { return below(100) < chance; }

 private:
  uint64_t state_;
};

}  // namespace blockbed::sim
