// A check or a repair of the image "disk", as programs run them, and with each of their requests
// failed in turn.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/repair.h"
#include "block/runtime/env.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"

namespace blockbed::qcow2::test {

// `-r leaks`; `-r all`; that without new structures where counts can be raised in place; what
// opening an image does that is marked dirty.
enum class How { kCheck, kLeaks, kAll, kInPlace, kAtOpen };

struct Outcome {
  // False: an error was told.
  bool done = false;
  CheckReport report;

  // It was told that all of it could be looked at.
  bool complete() const { return done && report.check_errors == 0; }
};

Task<Outcome> examine(Env& env, How how);
Task<void> store(Outcome& into, Task<Outcome> from);

// Who was told of no error has what a repair without one gives.
Task<void> expect_repaired_if_told(Env& env, const Outcome& outcome, std::string where);

struct FailedRequest {
  unsigned requests;
  int error;
  uint64_t times;
  // The power is cut behind it, with a subset of what was not flushed.
  bool power_cut;
};
inline constexpr FailedRequest kFailedRequests[] = {
    {sim::kSimEverything, EIO, 1, false},
    {sim::kSimEverything, EIO, 2, false},
    {sim::kSimChanges, ENOSPC, 1, false},
    {sim::kSimChanges | sim::kSimFlush, EIO, 1, true},
};

// Examines `files` with each request failed in turn, until none is left to fail, and calls
// judge(env, outcome, where), a task, for what that left. Stops at the first fault.
template <typename Judge>
void fail_each_request(const sim::StorageImage& files, How how, FailedRequest failed, Judge judge) {
  for (uint64_t skip = 0;; ++skip) {
    const std::string where =
        fmt::format("request {} of kind {:#x} fails with {}, {} times{}", skip, failed.requests,
                    failed.error, failed.times, failed.power_cut ? ", power cut" : "");
    sim::SimEnv env(skip + 1);
    // One request comes after the other: what they take decides nothing.
    env.storage().set_latency(sim::SimLatency::none());
    for (const auto& [path, content] : files) env.storage().put(path, content);
    sim::FaultRule rule;
    rule.requests = failed.requests;
    rule.error = failed.error;
    rule.times = failed.times;
    rule.skip = skip;
    const auto id = env.storage().add_fault(rule);
    Outcome outcome;
    env.run(store(outcome, examine(env, how)));
    const bool hit = env.storage().hits(id) > 0;
    env.storage().remove_fault(id);
    if (failed.power_cut) {
      env.storage().power_off();
      env.storage().power_on(env.storage().crash_image(sim::CrashSubset::seeded(skip)));
    }
    if (!hit) EXPECT_TRUE(outcome.complete()) << where << outcome.report.describe();
    env.run(judge(env, outcome, where));
    if (!hit || ::testing::Test::HasFailure()) return;
  }
}

}  // namespace blockbed::qcow2::test
