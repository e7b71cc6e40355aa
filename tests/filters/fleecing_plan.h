// FleecingPlan: what a seed of the fleecing simulation does.
//
// Threading: plain data.
#pragma once

#include <algorithm>
#include <cstdint>

#include "block/sim/sim_random.h"
#include "tests/qcow2/image_plan_fixture.h"

namespace blockbed::test {

struct FleecingPlan {
  explicit FleecingPlan(sim::SimRandom& chance) {
    size = static_cast<uint64_t>(chance.between(1, 16)) * kSmallestCluster;
    if (chance.percent(50)) size += static_cast<uint64_t>(chance.between(1, 127)) * 512;
    if (chance.percent(50)) disk = random_image(chance, size);
    if (chance.percent(50)) scratch = random_image(chance, size);
    // What a reader has done with takes no space.
    scratch.unmap = true;
    breaks_snapshot = chance.percent(50);
    if (chance.percent(40)) timeout = chance.between(1, 3);
    bitmap = chance.percent(30);
    source_errors = chance.percent(20);
    target_errors = chance.percent(30);
    small_scratch = chance.percent(25);
    slow_target = timeout > 0 && chance.percent(70);
    discards = chance.percent(40);
    crash = chance.percent(20);
  }

  // In which the filter copies.
  uint64_t cluster() const {
    return scratch.qcow2 ? std::max(kSmallestCluster, scratch.create.cluster_size)
                         : kSmallestCluster;
  }
  bool target_fails() const { return target_errors || small_scratch; }
  bool copies_may_fail() const { return source_errors || target_fails() || slow_target || crash; }
  // Without a copy that has failed: the tables of qcow2 are read from the disk, and written to the
  // scratch space whenever there is no room for them in memory.
  bool guest_may_fail() const { return disk.qcow2 && source_errors; }
  bool reader_may_fail() const { return source_errors || (scratch.qcow2 && target_fails()); }

  static constexpr uint64_t kSmallestCluster = uint64_t{64} << 10;

  uint64_t size;
  ImagePlan disk;
  ImagePlan scratch;
  bool breaks_snapshot;
  // Seconds; 0: none.
  int64_t timeout = 0;
  bool bitmap;
  bool source_errors;
  bool target_errors;
  bool small_scratch;
  bool slow_target;
  bool discards;
  bool crash;
};

}  // namespace blockbed::test
