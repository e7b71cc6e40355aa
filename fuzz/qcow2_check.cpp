// Checks the input as a qcow2 image, repairs it, and checks it again: whatever the bytes say, the
// answer is a report or an error. A check changes nothing; what was only leaking is clean after
// the leaks were repaired; a repair that succeeds leaves nothing more for a second one.
#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/repair.h"
#include "fuzz/memory_image.h"
#include "fuzz/qcow2_mutator.h"

namespace {

using namespace blockbed;
using namespace blockbed::fuzz;
using namespace blockbed::qcow2;

Task<void> check_and_repair(FuzzStorage& file) {
  auto header = co_await read_header(file, HeaderUse::kChecking);
  if (!header) co_return;
  CheckReport before;
  const auto checked = co_await check_image(file, *header, before, nullptr);
  BB_ASSERT(!file.changed());
  CheckReport leaks;
  const auto freed =
      co_await repair_image(file, *header, RepairOptions(Repair::kLeaks), leaks, nullptr);
  if (checked && freed && before.corruptions == 0 && before.check_errors == 0 && !file.was_full()) {
    CheckReport clean;
    const auto again = co_await check_image(file, *header, clean, nullptr);
    BB_ASSERT(again && clean.clean());
  }
  CheckReport repaired;
  const auto done =
      co_await repair_image(file, *header, RepairOptions(Repair::kAll), repaired, nullptr);
  CheckReport after;
  const auto again = co_await check_image(file, *header, after, nullptr);
  // Nothing was wrong, or all was made right: then it is right.
  if (done && repaired.clean() && repaired.corruptions_fixed == 0) {
    BB_ASSERT(again && after.corruptions == 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static FuzzEnv env;
  FuzzStorage file(std::span(data, size));
  env.run(check_and_repair(file));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  return mutate_image(data, size, most, seed);
}
