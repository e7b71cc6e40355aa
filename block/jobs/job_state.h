// The life of a job as data: its states, the ways between them, and which verb each state takes.
//
// Problem: clients drive jobs by their states and compare the error of a verb that comes at the
// wrong time. Both are tables here, so that they can be read, tested whole and never drift apart
// from the code that moves a job.
//
// Source of the rule: `JobStatus` and `JobVerb` of the QMP schema, the errors and JOB_STATUS_CHANGE
// events of QEMU 7.2. Threading: pure functions.
#pragma once

#include <string_view>

namespace blockbed {

enum class JobStatus {
  kUndefined,
  kCreated,
  kRunning,
  kPaused,
  kReady,
  kStandby,
  kWaiting,
  kPending,
  kAborting,
  kConcluded,
  kNull,
};
inline constexpr int kJobStatusCount = 11;

enum class JobVerb { kCancel, kPause, kResume, kSetSpeed, kComplete, kFinalize, kDismiss };
inline constexpr int kJobVerbCount = 7;

// The names on the wire: "running", "set-speed".
std::string_view job_status_name(JobStatus status);
std::string_view job_verb_name(JobVerb verb);

// True when a job in `from` may become `to` in one step.
bool job_transition_allowed(JobStatus from, JobStatus to);

// True when a job in this state takes the verb.
bool job_verb_allowed(JobStatus status, JobVerb verb);

}  // namespace blockbed
