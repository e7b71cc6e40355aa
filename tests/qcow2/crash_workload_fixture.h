// A workload of one image under power cuts: random requests, a cut at every change of its files,
// and the judgement of what is left. It may leak, never more, and holds what was flushed.
#pragma once

#include <cstdint>

#include "tests/qcow2/image_fixture.h"

namespace blockbed::qcow2::test {

struct Workload {
  // With `data_file` guest data lies in a second file, cut together with that of the tables.
  CreateOptions create;
  bool lazy = false;
  int operations = 24;
  int parallel = 3;
  bool grow = false;
  // discard-no-unref
  bool keeps_clusters = false;
  // To half its size, and back.
  bool shrink = false;
  // The longest write, in clusters.
  uint64_t longest = 3;
  std::size_t pieces = 4;
  // So many that wait to be freed are used again before the file grows.
  uint64_t reuse_clusters = 3;
  // Written before the crashes begin.
  uint64_t filled = 0;
  // So many bytes of a backing file show through where the image has nothing.
  uint64_t backed = 0;
};

// `cluster` bytes a cluster, and 48 of them.
Workload small_workload(uint64_t cluster);

// Cuts the power at every change that the workload makes; `subsets` of what is not flushed are
// tried at each, besides all and none of it. Stops at the first fault.
void visit_crashes(uint64_t seed, const Workload& workload, int subsets);

}  // namespace blockbed::qcow2::test
