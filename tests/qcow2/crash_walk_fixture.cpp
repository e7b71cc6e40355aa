#include "tests/qcow2/crash_walk_fixture.h"

namespace blockbed::qcow2::test {

CrashTotals& crash_totals() {
  static CrashTotals totals;
  return totals;
}

namespace {

class TellsTotals final : public ::testing::Environment {
 public:
  void TearDown() override {
    const CrashTotals& totals = crash_totals();
    if (totals.points == 0) return;
    // tests/run_all.py shows it again.
    fmt::print("power cuts: {} points, at {} of them every state; {} states visited\n",
               totals.points, totals.whole_points, totals.states);
  }
};

[[maybe_unused]] const ::testing::Environment* const kTellsTotals =
    ::testing::AddGlobalTestEnvironment(new TellsTotals);

}  // namespace
}  // namespace blockbed::qcow2::test
