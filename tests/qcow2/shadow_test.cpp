// Lives of images by chance, beside an array that knows the answer.
#include <gtest/gtest.h>

#include "tests/qcow2/shadow_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::qcow2::test {
namespace {

TEST(Qcow2Shadow, HoldsWhatAnArrayHolds) {
  blockbed::test::Coverage coverage({
      "version 2",
      "version 3",
      "extended L2",
      "external data file",
      "raw data file",
      "backing file",
      "zstd",
      "lazy refcounts",
      "parallel requests",
      "compressed write",
      "zero not supported",
      "discard",
      "reopen",
      "death",
      "grow",
      "shrink",
      "resize refused",
      "snapshot",
      "apply",
      "delete",
      "VM state",
      "counts too narrow for a snapshot",
      "counts too narrow to apply",
  });
  blockbed::test::for_each_seed_covering(coverage, 400,
                                         [&](uint64_t seed) { ShadowRun(seed, coverage).run(); });
}

}  // namespace
}  // namespace blockbed::qcow2::test
