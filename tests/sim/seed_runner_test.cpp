#include "tests/support/seed_runner.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/coverage.h"

namespace blockbed::sim {
namespace {

// Sets a variable of the process's environment while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    value != nullptr ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~Variable() { before_.empty() ? ::unsetenv(name_) : ::setenv(name_, before_.c_str(), 1); }

 private:
  const char* name_;
  std::string before_;
};

std::vector<uint64_t> seeds_run(uint64_t count) {
  std::vector<uint64_t> seen;
  for_each_seed(count, [&seen](uint64_t seed) { seen.push_back(seed); });
  return seen;
}

TEST(SeedRunner, RunsThemAllOrWhatIsAskedFor) {
  const Variable no_seed("BLOCKBED_SEED", nullptr);
  const Variable no_count("BLOCKBED_SEEDS", nullptr);
  EXPECT_EQ(seeds_run(3), (std::vector<uint64_t>{1, 2, 3}));
  const Variable count("BLOCKBED_SEEDS", "2");
  EXPECT_EQ(seeds_run(3), (std::vector<uint64_t>{1, 2}));
  const Variable one("BLOCKBED_SEED", "77");
  EXPECT_EQ(seeds_run(3), (std::vector<uint64_t>{77}));
}

TEST(SeedRunner, SaysWhetherTheWholeRangeRan) {
  const auto nothing = [](uint64_t) {};
  const Variable no_seed("BLOCKBED_SEED", nullptr);
  const Variable no_count("BLOCKBED_SEEDS", nullptr);
  EXPECT_TRUE(for_each_seed(3, nothing));
  const Variable count("BLOCKBED_SEEDS", "2");
  EXPECT_FALSE(for_each_seed(3, nothing));
  const Variable more("BLOCKBED_SEEDS", "4");
  EXPECT_TRUE(for_each_seed(3, nothing));
  const Variable one("BLOCKBED_SEED", "2");
  EXPECT_FALSE(for_each_seed(3, nothing));
}

TEST(Coverage, AMarkThatNoSeedMeetsIsAFailure) {
  test::Coverage coverage({"met", "missed"});
  for (uint64_t seed = 1; seed < 3; ++seed) {
    coverage.begin(seed);
    coverage.hit("met");
    coverage.hit_if(seed > 2, "missed");
  }
  EXPECT_NONFATAL_FAILURE(coverage.expect_all(), "no seed met: missed");
  EXPECT_NONFATAL_FAILURE(coverage.hit("unknown"), "is no mark");
}

TEST(SeedRunnerDeathTest, StopsAtTheFirstFailureAndSaysHowToReplayIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto body = [] {
    ::unsetenv("BLOCKBED_SEED");
    ::unsetenv("BLOCKBED_SEEDS");
    uint64_t last = 0;
    for_each_seed(5, [&last](uint64_t seed) {
      last = seed;
      EXPECT_NE(seed, 3U);
    });
    ::_exit(last == 3 && HasFailure() ? 17 : 0);
  };
  EXPECT_EXIT(body(), ::testing::ExitedWithCode(17),
              "replay: BLOCKBED_SEED=3 .*--gtest_filter=SeedRunnerDeathTest.Stops");
}

}  // namespace
}  // namespace blockbed::sim
