#include "tests/qcow2/crash_walk_fixture.h"

#include "tests/qcow2/order_judge_fixture.h"

namespace blockbed::qcow2::test {

CrashTotals& crash_totals() {
  static CrashTotals totals;
  return totals;
}

void expect_order(const sim::SimStorage& storage, uint64_t seed) {
  const OrderVerdict verdict = judge_order(storage);
  if (!verdict.faults.empty()) {
    ADD_FAILURE() << "seed " << seed << ": " << describe(verdict.faults.front()) << ", and "
                  << verdict.faults.size() - 1 << " more";
  }
  for (const uint64_t asked : verdict.asked) crash_totals().asked += asked;
}

namespace {

class TellsTotals final : public ::testing::Environment {
 public:
  void TearDown() override {
    const CrashTotals& totals = crash_totals();
    if (totals.asked > 0) {
      fmt::print("order of writes: {} rules were to hold {} times\n", kOrderRules, totals.asked);
    }
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
