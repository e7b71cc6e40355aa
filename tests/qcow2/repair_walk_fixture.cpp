#include "tests/qcow2/repair_walk_fixture.h"

#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {

Task<Outcome> examine(Env& env, How how) {
  Outcome outcome;
  FileOpenOptions open;
  open.write = how != How::kCheck;
  auto file = co_await env.open_file("disk", open);
  if (!file) co_return outcome;
  FileStorage storage(**file);
  auto header = co_await read_header(storage, HeaderUse::kChecking);
  if (header) {
    Result<void> done;
    if (how == How::kCheck) {
      done = co_await check_image(storage, *header, outcome.report, nullptr);
    } else if (how == How::kAtOpen) {
      if (header->has(incompatible::kDirty)) done = co_await repair_counts(storage, *header);
    } else {
      RepairOptions options(how == How::kLeaks ? Repair::kLeaks : Repair::kAll);
      options.raise_in_place = how == How::kInPlace;
      done = co_await repair_image(storage, *header, options, outcome.report, nullptr);
    }
    outcome.done = done.has_value();
  }
  (void)co_await (*file)->close();
  co_return outcome;
}

Task<void> expect_repaired_if_told(Env& env, const Outcome& outcome, std::string where) {
  if (!outcome.complete()) co_return;
  const Outcome left = co_await examine(env, How::kCheck);
  EXPECT_TRUE(left.done && left.report.clean()) << where << left.report.describe();
}

Task<void> store(Outcome& into, Task<Outcome> from) { into = co_await std::move(from); }

}  // namespace blockbed::qcow2::test
