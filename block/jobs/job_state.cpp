#include "block/jobs/job_state.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace blockbed {

namespace {

struct StateRow {
  std::string_view name;
  // States that may follow, and verbs that are taken, as sets of bits.
  uint32_t next;
  uint32_t verbs;
};

template <class... E>
constexpr uint32_t set_of(E... members) {
  return (0u | ... | (1u << static_cast<unsigned>(members)));
}

using enum JobStatus;
using enum JobVerb;

constexpr uint32_t kDuringRun = set_of(kCancel, kPause, kResume, kSetSpeed);

constexpr std::array<StateRow, kJobStatusCount> kStates = {{
    {"undefined", set_of(kCreated), 0},
    {"created", set_of(kRunning, kAborting, kNull), kDuringRun},
    {"running", set_of(kPaused, kReady, kWaiting, kAborting), kDuringRun},
    {"paused", set_of(kRunning), kDuringRun},
    {"ready", set_of(kStandby, kWaiting, kAborting), kDuringRun | set_of(kComplete)},
    {"standby", set_of(kReady), kDuringRun | set_of(kComplete)},
    {"waiting", set_of(kPending, kAborting), set_of(kCancel)},
    {"pending", set_of(kAborting, kConcluded), set_of(kCancel, kFinalize)},
    {"aborting", set_of(kAborting, kConcluded), 0},
    {"concluded", set_of(kNull), set_of(kDismiss)},
    {"null", 0, 0},
}};

constexpr std::array<std::string_view, kJobVerbCount> kVerbs = {
    "cancel", "pause", "resume", "set-speed", "complete", "finalize", "dismiss"};

const StateRow& row(JobStatus status) { return kStates[static_cast<std::size_t>(status)]; }

}  // namespace

std::string_view job_status_name(JobStatus status) { return row(status).name; }
std::string_view job_verb_name(JobVerb verb) { return kVerbs[static_cast<std::size_t>(verb)]; }

bool job_transition_allowed(JobStatus from, JobStatus to) {
  return (row(from).next & set_of(to)) != 0;
}
bool job_verb_allowed(JobStatus status, JobVerb verb) {
  return (row(status).verbs & set_of(verb)) != 0;
}

}  // namespace blockbed
