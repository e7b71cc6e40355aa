#include "tests/backup/disk_plan_fixture.h"

#include <fmt/format.h>

#include <algorithm>

namespace blockbed::test {

namespace {

ImagePlan random_image(sim::SimRandom& chance, uint64_t size) {
  ImagePlan plan;
  plan.unmap = chance.percent(50);
  plan.qcow2 = chance.percent(75);
  if (!plan.qcow2) return plan;
  qcow2::CreateOptions& create = plan.create;
  create.size = size;
  constexpr uint64_t kBits[] = {9, 9, 10, 12, 14, 14, 16, 16, 16, 17, 18};
  create.cluster_size = uint64_t{1} << kBits[chance.below(std::size(kBits))];
  plan.small_cache = chance.percent(40);
  if (chance.percent(15)) {
    create.version = 2;
    return plan;
  }
  create.refcount_bits = uint32_t{1} << chance.below(7);
  create.lazy_refcounts = chance.percent(20);
  create.extended_l2 = create.cluster_size >= (uint64_t{16} << 10) && chance.percent(30);
  if (chance.percent(30)) create.compression = qcow2::CompressionType::kZstd;
  return plan;
}

std::string describe_image(const ImagePlan& plan) {
  if (!plan.qcow2) return "raw";
  const qcow2::CreateOptions& c = plan.create;
  return fmt::format("qcow2 v{} (clusters {}, counts {}{}{}{})", c.version, c.cluster_size,
                     c.refcount_bits, c.extended_l2 ? ", extended" : "",
                     c.lazy_refcounts ? ", lazy" : "", plan.small_cache ? ", small cache" : "");
}

}  // namespace

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
