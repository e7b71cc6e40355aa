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

// Calls judge(left, operation, where) for each state in which a crash may leave a storage that was
// told to record() when it had done `first_operation` operations: at each instant with none and
// with all of what was not flushed, and with so many `subsets` of it. `operation` is that of the
// instant. Stops at the first fault. The number of states.
template <typename Judge>
uint64_t judge_crashes(const sim::SimStorage& storage, uint64_t first_operation, uint64_t seed,
                       int subsets, Judge judge) {
  uint64_t states = 0;
  for (sim::CrashPoints crash(storage); !crash.at_end(); crash.next()) {
    const std::string where =
        fmt::format("seed {} point {} ({})", seed, crash.point(), crash.describe());
    auto visit = [&](sim::CrashSubset subset, const std::string& which) {
      judge(crash.image(subset), first_operation + crash.point(), where + which);
      ++states;
    };
    visit(sim::CrashSubset::none(), " none");
    visit(sim::CrashSubset::all(), " all");
    for (int s = 0; s < subsets; ++s) {
      visit(sim::CrashSubset::seeded(seed * 100 + static_cast<uint64_t>(s)),
            fmt::format(" subset {}", s));
    }
    if (::testing::Test::HasFailure()) break;
  }
  return states;
}

}  // namespace blockbed::qcow2::test
