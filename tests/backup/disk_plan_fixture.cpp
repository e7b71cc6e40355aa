#include "tests/backup/disk_plan_fixture.h"

#include <fmt/format.h>

#include <algorithm>

namespace blockbed::test {

DiskPlan::DiskPlan(sim::SimRandom& chance) {
  size = static_cast<uint64_t>(chance.between(1, chance.percent(80) ? 8 : 24)) * kUnit;
  if (chance.percent(50)) size += static_cast<uint64_t>(chance.between(1, 127)) * 512;
  source = random_image(chance, size);
  target = random_image(chance, size);
  if (target.qcow2 && chance.percent(4)) {
    // One cluster of the target is more than the whole disk, or nearly.
    target.create.cluster_size = uint64_t{2} << 20;
    target.create.extended_l2 = false;
  }
  if (source.qcow2 && chance.percent(50)) {
    base_size = chance.percent(70) ? size : (1 + chance.below(size / 512)) * 512;
    base = random_image(chance, base_size);
  }
  const uint64_t kind = chance.below(10);
  sync = kind < 5 ? BackupSync::kFull : kind < 7 ? BackupSync::kNone : BackupSync::kTop;
  if (target.qcow2) {
    compress = chance.percent(30);
    switch (sync) {
      case BackupSync::kFull:
        if (chance.percent(25)) target_backing = TargetBacking::kOther;
        break;
      case BackupSync::kTop:
        if (base && chance.percent(80)) target_backing = TargetBacking::kSame;
        break;
      case BackupSync::kNone:
        if (chance.percent(60)) target_backing = TargetBacking::kSource;
        break;
      case BackupSync::kBitmap:
        break;
    }
  }
  junk = !target.qcow2 || (target_backing != TargetBacking::kSame &&
                           target_backing != TargetBacking::kSource && chance.percent(40));
}

std::string DiskPlan::describe() const {
  constexpr const char* kSyncs[] = {"full", "top", "none"};
  constexpr const char* kBackings[] = {"nothing", "the source's base", "junk", "the source"};
  std::string text = fmt::format("{} bytes, sync {}, source {}", size,
                                 kSyncs[static_cast<int>(sync)], describe_image(source));
  if (base) text += fmt::format(" over {} bytes of {}", base_size, describe_image(*base));
  return text + fmt::format(", target {} over {}{}{}", describe_image(target),
                            kBackings[static_cast<int>(target_backing)], junk ? ", used" : "",
                            compress ? ", compressed" : "");
}

schema::BlockdevBackup random_job(sim::SimRandom& chance, const DiskPlan& plan) {
  schema::BlockdevBackup job;
  constexpr schema::MirrorSyncMode kModes[] = {
      schema::MirrorSyncMode::kFull, schema::MirrorSyncMode::kTop, schema::MirrorSyncMode::kNone};
  constexpr schema::BlockdevOnError kPolicies[] = {
      schema::BlockdevOnError::kReport, schema::BlockdevOnError::kIgnore,
      schema::BlockdevOnError::kEnospc, schema::BlockdevOnError::kStop,
      schema::BlockdevOnError::kStop,   schema::BlockdevOnError::kAuto};
  job.sync = kModes[static_cast<int>(plan.sync)];
  if (plan.compress) job.compress = true;
  if (chance.percent(80)) job.on_source_error = kPolicies[chance.below(std::size(kPolicies))];
  if (chance.percent(80)) job.on_target_error = kPolicies[chance.below(std::size(kPolicies))];
  if (chance.percent(30)) job.speed = chance.between(1, 200) * 1'000'000;
  if (chance.percent(30)) job.auto_finalize = false;
  if (chance.percent(20)) job.auto_dismiss = false;
  if (chance.percent(60)) {
    schema::BackupPerf perf;
    perf.max_workers = chance.between(1, 8);
    if (chance.percent(60)) {
      const uint64_t cluster =
          plan.target.qcow2 ? std::max(kUnit, plan.target.create.cluster_size) : kUnit;
      perf.max_chunk = static_cast<int64_t>(cluster) * chance.between(1, 4);
    }
    job.x_perf = perf;
  }
  return job;
}

}  // namespace blockbed::test
