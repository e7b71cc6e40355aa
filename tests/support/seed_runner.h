// for_each_seed(): a test body run for many seeds, with the command that replays the one that
// failed.
//
//   TEST(Backup, SurvivesCrashes) {
//     sim::for_each_seed(200, [](uint64_t seed) {
//       sim::SimEnv env(seed);
//       ...EXPECT_...
//     });
//   }
//
// Contract: runs fn(1) to fn(count) and stops after the first seed that fails. True when all of
// these seeds ran, and passed. BLOCKBED_SEEDS=n in
// the process's environment replaces the count, BLOCKBED_SEED=n runs that seed alone. The command
// is printed too when the process ends by an assertion, a deadlock or a sanitizer in the middle of
// a seed. For GoogleTest programs only. Threading: one thread.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace blockbed::sim {

namespace seed_runner_detail {

// Written before each seed, so that a signal handler only has to print it.
inline char replay[512] = "";

inline void print_replay() {
  [[maybe_unused]] const ssize_t written = ::write(2, replay, std::strlen(replay));
  replay[0] = '\0';
}
inline void on_abort(int signal) {
  print_replay();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

inline uint64_t number_from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace seed_runner_detail

template <class Function>
bool for_each_seed(uint64_t count, const Function& fn) {
  namespace detail = seed_runner_detail;
  const uint64_t only = detail::number_from_environment("BLOCKBED_SEED", 0);
  const uint64_t last = only != 0 ? only : detail::number_from_environment("BLOCKBED_SEEDS", count);
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string program = ::testing::internal::GetArgvs().front();
  const auto before = std::signal(SIGABRT, detail::on_abort);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(detail::print_replay);
  }
  bool passed = true;
  for (uint64_t seed = only != 0 ? only : 1; seed <= last; ++seed) {
    std::snprintf(detail::replay, sizeof detail::replay,
                  "replay: BLOCKBED_SEED=%llu %s --gtest_filter=%s.%s\n",
                  static_cast<unsigned long long>(seed), program.c_str(), test->test_suite_name(),
                  test->name());
    fn(seed);
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "seed " << seed << " failed";
      detail::print_replay();
      passed = false;
      break;
    }
  }
  detail::replay[0] = '\0';
  std::signal(SIGABRT, before);
  return passed && only == 0 && last >= count;
}

}  // namespace blockbed::sim
