// Coverage: what the seeds of a simulation have met, so that it cannot silently stop testing
// something.
//
//   Coverage coverage({"crash", "cancel"});
//   test::for_each_seed_covering(coverage, 2000, [&](uint64_t seed) {
//     ... coverage.hit("crash") ...
//   });
//
// Contract: counts the seeds that hit a mark, once each. The marks are named once, before the first
// seed; hitting another one is a mistake of the test. Threading: plain data.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "block/runtime/assert.h"
#include "tests/support/seed_runner.h"

namespace blockbed::test {

class Coverage {
 public:
  Coverage(std::initializer_list<std::string_view> marks) {
    for (const std::string_view mark : marks) marks_.push_back({mark});
  }

  // Marks that several simulations have.
  void demand(std::span<const std::string_view> marks) {
    for (const std::string_view mark : marks) marks_.push_back({mark});
  }

  void begin(uint64_t seed) {
    seed_ = seed;
    ++seeds_;
  }
  void hit(std::string_view mark) {
    for (Mark& known : marks_) {
      if (known.name != mark) continue;
      if (known.last_seed != seed_) ++known.seeds;
      known.last_seed = seed_;
      return;
    }
    ADD_FAILURE() << "'" << mark << "' is no mark";
  }
  void hit_if(bool condition, std::string_view mark) {
    if (condition) hit(mark);
  }

  void print() const {
    std::printf("of %llu seeds:\n", static_cast<unsigned long long>(seeds_));
    for (const Mark& mark : marks_) {
      std::printf("%7llu %.*s\n", static_cast<unsigned long long>(mark.seeds),
                  static_cast<int>(mark.name.size()), mark.name.data());
    }
  }
  void expect_all() const {
    for (const Mark& mark : marks_) EXPECT_GT(mark.seeds, 0u) << "no seed met: " << mark.name;
  }

 private:
  struct Mark {
    std::string_view name;
    uint64_t seeds = 0;
    uint64_t last_seed = 0;
  };

  std::vector<Mark> marks_;
  uint64_t seed_ = 0;
  uint64_t seeds_ = 0;
};

// Runs the seeds and prints what they met. When all of them ran, each mark must have been met.
template <class Function>
void for_each_seed_covering(Coverage& coverage, uint64_t count, const Function& fn) {
  const bool all = sim::for_each_seed(count, [&](uint64_t seed) {
    coverage.begin(seed);
    fn(seed);
  });
  coverage.print();
  if (all) coverage.expect_all();
}

}  // namespace blockbed::test
