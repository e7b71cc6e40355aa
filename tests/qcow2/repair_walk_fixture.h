// A check or a repair of the image "disk", as programs run them.
#pragma once

#include <gtest/gtest.h>

#include "block/formats/qcow2/check.h"
#include "block/formats/qcow2/open.h"
#include "block/formats/qcow2/repair.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2::test {

// `-r leaks`; `-r all`; that without new structures where counts can be raised in place; what
// opening an image does that is marked dirty.
enum class How { kCheck, kLeaks, kAll, kInPlace, kAtOpen };

struct Outcome {
  bool done = false;
  CheckReport report;
};

Task<Outcome> examine(Env& env, How how);
Task<void> store(Outcome& into, Task<Outcome> from);

}  // namespace blockbed::qcow2::test
