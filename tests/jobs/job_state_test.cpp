// The tables of a job's life, whole.
#include "block/jobs/job_state.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

namespace blockbed {
namespace {

constexpr JobStatus status(int i) { return static_cast<JobStatus>(i); }
constexpr JobVerb verb(int i) { return static_cast<JobVerb>(i); }

TEST(JobState, OnlyTheseTransitionsAreAllowed) {
  // As seen in the events of QEMU 7.2.
  const std::map<std::string, std::set<std::string>> expected = {
      {"undefined", {"created"}},
      {"created", {"running", "aborting", "null"}},
      {"running", {"paused", "ready", "waiting", "aborting"}},
      {"paused", {"running"}},
      {"ready", {"standby", "waiting", "aborting"}},
      {"standby", {"ready"}},
      {"waiting", {"pending", "aborting"}},
      {"pending", {"aborting", "concluded"}},
      {"aborting", {"aborting", "concluded"}},
      {"concluded", {"null"}},
      {"null", {}},
  };
  for (int from = 0; from < kJobStatusCount; ++from) {
    const std::string from_name(job_status_name(status(from)));
    ASSERT_TRUE(expected.contains(from_name)) << from_name;
    for (int to = 0; to < kJobStatusCount; ++to) {
      const std::string to_name(job_status_name(status(to)));
      EXPECT_EQ(job_transition_allowed(status(from), status(to)),
                expected.at(from_name).contains(to_name))
          << from_name << " -> " << to_name;
    }
  }
}

TEST(JobState, EachStateTakesOnlyTheseVerbs) {
  const std::set<std::string> during_run = {"cancel", "pause", "resume", "set-speed"};
  std::set<std::string> when_ready = during_run;
  when_ready.insert("complete");
  const std::map<std::string, std::set<std::string>> expected = {
      {"undefined", {}},
      {"created", during_run},
      {"running", during_run},
      {"paused", during_run},
      {"ready", when_ready},
      {"standby", when_ready},
      {"waiting", {"cancel"}},
      {"pending", {"cancel", "finalize"}},
      {"aborting", {}},
      {"concluded", {"dismiss"}},
      {"null", {}},
  };
  for (int s = 0; s < kJobStatusCount; ++s) {
    for (int v = 0; v < kJobVerbCount; ++v) {
      const std::string state(job_status_name(status(s)));
      const std::string word(job_verb_name(verb(v)));
      EXPECT_EQ(job_verb_allowed(status(s), verb(v)), expected.at(state).contains(word))
          << state << " " << word;
    }
  }
}

}  // namespace
}  // namespace blockbed
