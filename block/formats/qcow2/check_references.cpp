// Checker: who refers to a cluster, asked for some of them.
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"

namespace blockbed::qcow2 {

// What is not counted is named where it begins, which is where the fault is told.
void Checker::watch(const Referrer& by, uint64_t offset, uint64_t bytes, bool is_counted) {
  if (watched_ == nullptr) return;
  const uint64_t first = offset >> g_.cluster_bits;
  const uint64_t last = is_counted ? (offset + bytes - 1) >> g_.cluster_bits : first;
  for (auto at = watched_->lower_bound(first); at != watched_->end() && *at <= last; ++at) {
    const bool as_table = by.owner == Owner::kActiveL2 || by.owner == Owner::kSnapshotL2;
    if (is_counted && !as_table && !by.is_dropped) tables_of_others_.insert(*at);
    if (references_.size() >= kMaxReferences) continue;
    references_.push_back(Reference{*at << g_.cluster_bits, describe(by), is_counted});
  }
}

std::string Checker::describe(const Referrer& by) {
  switch (by.owner) {
    case Owner::kHeader:
      return "the header's own cluster";
    case Owner::kActiveL1:
      return "header: active L1 table";
    case Owner::kActiveL2:
      return fmt::format("active L1 table, entry {}", by.index);
    case Owner::kActiveData:
      return fmt::format("active L2 table at {:#x}, entry {} (guest offset {:#x})", by.table,
                         by.index, by.guest);
    case Owner::kSnapshotTable:
      return "header: snapshot table";
    case Owner::kSnapshotL1:
      return fmt::format("snapshot table, entry {}: L1 table", by.index);
    case Owner::kSnapshotL2:
      return fmt::format("snapshot's L1 table at {:#x}, entry {}", by.table, by.index);
    case Owner::kSnapshotData:
      return fmt::format("snapshot's L2 table at {:#x}, entry {} (guest offset {:#x})", by.table,
                         by.index, by.guest);
    case Owner::kCrypto:
      return "header extension: encryption header";
    case Owner::kBitmapDirectory:
      return "header extension: bitmap directory";
    case Owner::kBitmapTable:
      return fmt::format("bitmap directory, entry {}: table", by.index);
    case Owner::kBitmapData:
      return fmt::format("bitmap table at {:#x}, entry {}", by.table, by.index);
    case Owner::kRefcountTable:
      return "header: refcount table";
    case Owner::kRefcountBlock:
      return fmt::format("refcount table, entry {}", by.index);
  }
  return "nobody";
}

Task<Result<void>> Checker::find_tables_of_others() {
  CheckReport unused;
  Checker survey(file_, h_, RepairOptions(Repair::kNone), unused, nullptr);
  survey.snapshots_ = snapshots_;
  BB_CO_TRY(co_await survey.walk());
  if (survey.repairable_tables_.empty()) co_return Result<void>();
  Checker look(file_, h_, RepairOptions(Repair::kNone), unused, nullptr);
  look.snapshots_ = snapshots_;
  look.watched_ = &survey.repairable_tables_;
  BB_CO_TRY(co_await look.walk());
  tables_of_others_ = std::move(look.tables_of_others_);
  co_return Result<void>();
}

Task<Result<std::vector<Reference>>> Checker::find(const std::vector<uint64_t>& cluster_offsets) {
  std::set<uint64_t> clusters;
  for (uint64_t offset : cluster_offsets) clusters.insert(offset >> g_.cluster_bits);
  watched_ = &clusters;
  sink_ = nullptr;
  auto snapshots = co_await read_snapshot_table(file_, h_, false, report_, [](const auto&) {});
  if (snapshots) snapshots_ = std::move(*snapshots);
  BB_CO_TRY(co_await walk());
  watched_ = nullptr;
  co_return std::move(references_);
}

}  // namespace blockbed::qcow2
