// Checker: who refers to a cluster, asked for some of them.
#include <fmt/format.h>

#include "block/formats/qcow2/check_walk.h"

namespace blockbed::qcow2 {

void Checker::watch(const Referrer& by, uint64_t first, uint64_t last) {
  for (auto at = watched_->lower_bound(first); at != watched_->end() && *at <= last; ++at) {
    const bool as_table = by.owner == Owner::kActiveL2 || by.owner == Owner::kSnapshotL2;
    if (!as_table && !by.is_dropped) tables_of_others_.insert(*at);
    if (references_.size() >= kMaxReferences) continue;
    std::string text;
    switch (by.owner) {
      case Owner::kHeader:
        text = "the header's own cluster";
        break;
      case Owner::kActiveL1:
        text = "header: active L1 table";
        break;
      case Owner::kActiveL2:
        text = fmt::format("active L1 table, entry {}", by.index);
        break;
      case Owner::kActiveData:
        text = fmt::format("active L2 table at {:#x}, entry {} (guest offset {:#x})", by.table,
                           by.index, by.guest);
        break;
      case Owner::kSnapshotTable:
        text = "header: snapshot table";
        break;
      case Owner::kSnapshotL1:
        text = fmt::format("snapshot table, entry {}: L1 table", by.index);
        break;
      case Owner::kSnapshotL2:
        text = fmt::format("snapshot's L1 table at {:#x}, entry {}", by.table, by.index);
        break;
      case Owner::kSnapshotData:
        text = fmt::format("snapshot's L2 table at {:#x}, entry {} (guest offset {:#x})", by.table,
                           by.index, by.guest);
        break;
      case Owner::kCrypto:
        text = "header extension: encryption header";
        break;
      case Owner::kBitmapDirectory:
        text = "header extension: bitmap directory";
        break;
      case Owner::kBitmapTable:
        text = fmt::format("bitmap directory, entry {}: table", by.index);
        break;
      case Owner::kBitmapData:
        text = fmt::format("bitmap table at {:#x}, entry {}", by.table, by.index);
        break;
      case Owner::kRefcountTable:
        text = "header: refcount table";
        break;
      case Owner::kRefcountBlock:
        text = fmt::format("refcount table, entry {}", by.index);
        break;
    }
    references_.push_back(Reference{*at << g_.cluster_bits, std::move(text)});
  }
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
