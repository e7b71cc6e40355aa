// DiskPlan: what a seed makes of one disk and of the image that its backup goes to.
//
// Threading: plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/graph/backend.h"
#include "block/jobs/backup.h"
#include "block/sim/sim_random.h"
#include "schema/block_graph.h"
#include "tests/qcow2/image_plan_fixture.h"

namespace blockbed::test {

inline constexpr uint64_t kUnit = uint64_t{64} << 10;

enum class TargetBacking {
  kNone,
  // What the source stands on (sync=top).
  kSame,
  // Something else, which must not show.
  kOther,
  // The source itself: its past can be read while the job goes on.
  kSource,
};

struct DiskPlan {
  explicit DiskPlan(sim::SimRandom& chance);

  uint64_t size;
  ImagePlan source;
  ImagePlan target;
  // The backing file of the source; it may be shorter than the disk.
  std::optional<ImagePlan> base;
  uint64_t base_size = 0;
  TargetBacking target_backing = TargetBacking::kNone;
  // The target has had another use.
  bool junk = false;
  BackupSync sync = BackupSync::kFull;
  bool compress = false;

  // A discard may do nothing there but show the backing file again.
  bool discards() const { return !source.qcow2 || source.create.version > 2 || !base; }
  // For who looks into a seed that failed.
  std::string describe() const;
};

// How the job is to run.
schema::BlockdevBackup random_job(sim::SimRandom& chance, const DiskPlan& plan);

}  // namespace blockbed::test
