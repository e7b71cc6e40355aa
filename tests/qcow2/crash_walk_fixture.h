// Every instant at which a recorded workload can be cut off, and what is judged there.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "block/sim/crash_points.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"

namespace blockbed::qcow2::test {

// Runs work(env) where the storage holds what a crash has left, and takes no time.
template <typename Work>
auto run_after_crash(const sim::StorageImage& left, Work work) {
  sim::SimEnv env(1);
  env.storage().set_latency(sim::SimLatency::none());
  for (const auto& [path, content] : left) env.storage().put(path, content);
  return env.run(work(env));
}

// At a point where a crash may leave no more than this, all of it is judged.
inline constexpr std::size_t kFewStates = 32;

// What power cuts were judged by this program. It is printed when all tests have ended.
struct CrashTotals {
  uint64_t points = 0;
  // Those where every state was visited.
  uint64_t whole_points = 0;
  uint64_t states = 0;
  // How often a rule of the order of writes was to hold.
  uint64_t asked = 0;
};
CrashTotals& crash_totals();

// Fails where a write of the recording comes before what order_of_writes.md says it must come
// after.
void expect_order(const sim::SimStorage& storage, uint64_t seed);

// Calls judge(left, operation, where) for each state in which a crash may leave a storage that was
// told to record() when it had done `first_operation` operations: at each instant with every subset
// of what was not flushed, where these are few; else with none, with all, and with so many seeded
// `subsets` of it. `operation` is that of the instant. Stops at the first fault. The number of
// states. First of all the recording's order of writes is judged.
template <typename Judge>
uint64_t judge_crashes(const sim::SimStorage& storage, uint64_t first_operation, uint64_t seed,
                       int subsets, Judge judge) {
  expect_order(storage, seed);
  const uint64_t before = crash_totals().states;
  for (sim::CrashPoints crash(storage); !crash.at_end(); crash.next()) {
    const std::string where =
        fmt::format("seed {} point {} ({})", seed, crash.point(), crash.describe());
    auto visit = [&](const sim::StorageImage& left, const std::string& which) {
      judge(left, first_operation + crash.point(), where + which);
      ++crash_totals().states;
    };
    ++crash_totals().points;
    if (const auto every = crash.every_image(kFewStates)) {
      ++crash_totals().whole_points;
      for (std::size_t i = 0; i < every->size() && !::testing::Test::HasFailure(); ++i) {
        visit((*every)[i], fmt::format(" state {} of {}", i, every->size()));
      }
    } else {
      visit(crash.image(sim::CrashSubset::none()), " none");
      visit(crash.image(sim::CrashSubset::all()), " all");
      for (int s = 0; s < subsets; ++s) {
        visit(crash.image(sim::CrashSubset::seeded(seed * 100 + static_cast<uint64_t>(s))),
              fmt::format(" subset {}", s));
      }
    }
    if (::testing::Test::HasFailure()) break;
  }
  return crash_totals().states - before;
}

}  // namespace blockbed::qcow2::test
