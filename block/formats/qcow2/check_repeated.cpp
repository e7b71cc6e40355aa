// Checker: tables that are named again and again.
//
// An image of a few megabytes can name one table so often that following every name takes days. A
// table that is looked at again gives the same faults and the same references. So it is, as in
// qemu-img, until kMaxLookedAgain entries were; from then on names are only counted, and in the end
// each table, and each stretch of tables that lie in each other's place, is looked at once, with
// that weight. Totals are the same; faults are told once.
#include "block/formats/qcow2/check_walk.h"

namespace blockbed::qcow2 {

namespace {

// Some hundred milliseconds of work.
constexpr uint64_t kMaxLookedAgain = uint64_t{1} << 22;
// Tables whose names are counted before they are looked at.
constexpr std::size_t kMaxRepeatedTables = std::size_t{1} << 20;

}  // namespace

bool Checker::is_again(uint64_t table) const {
  return table < length_ && counts_[table >> g_.cluster_bits] != 0;
}

bool Checker::can_look_again(uint64_t entries) {
  looked_again_ += entries;
  return looked_again_ <= kMaxLookedAgain;
}

bool Checker::is_looked_at_later(RepeatedStretches& tables, const Referrer& by, uint64_t offset,
                                 uint64_t entries) {
  if (!is_again(offset) || can_look_again(entries)) return false;
  const uint64_t bytes = entries * 8;
  if (bytes == 0) return true;
  const bool inside = is_inside(offset, bytes);
  watch(by, offset, bytes, inside);
  if (inside) {
    ++tables.clusters[offset >> g_.cluster_bits];
    --tables.clusters[((offset + bytes - 1) >> g_.cluster_bits) + 1];
  }
  ++tables.places[offset];
  --tables.places[std::min(offset + bytes, length_)];
  return true;
}

Task<Result<void>> Checker::look_at_l2_later(const Referrer& by, uint64_t table) {
  // Where tables begin within each other no two are the same one.
  if (g_.in_cluster(table) != 0) co_return io_error(EFBIG);
  auto& tables = by.owner == Owner::kActiveL2 ? repeated_l2s_ : repeated_snapshot_l2s_;
  tables.try_emplace(table, RepeatedTable{by, 0}).first->second.times += times_;
  if (tables.size() < kMaxRepeatedTables) co_return Result<void>();
  co_return co_await walk_repeated_l2s();
}

Task<Result<void>> Checker::walk_repeated_l2s() {
  const uint64_t outer = std::exchange(times_, 1);
  for (const bool active : {true, false}) {
    const auto tables = std::exchange(active ? repeated_l2s_ : repeated_snapshot_l2s_, {});
    for (const auto& [table, repeated] : tables) {
      times_ = repeated.times;
      refer(repeated.by, table, g_.cluster_size);
      BB_CO_TRY(co_await walk_l2(table, repeated.by.index, active));
      if (no_memory_) co_return io_error(ENOMEM);
    }
  }
  times_ = outer;
  co_return Result<void>();
}

std::vector<Checker::Stretch> Checker::stretches(std::map<uint64_t, int64_t> changes) {
  std::vector<Stretch> all;
  int64_t times = 0;
  for (auto at = changes.begin(); at != changes.end(); ++at) {
    times += at->second;
    if (times == 0) continue;
    all.push_back(Stretch{Region{at->first, std::next(at)->first}, static_cast<uint64_t>(times)});
  }
  return all;
}

Task<Result<void>> Checker::walk_repeated() {
  for (RepeatedStretches* tables : {&snapshot_l1s_, &bitmap_tables_}) {
    const RepeatedStretches repeated = std::exchange(*tables, {});
    for (const auto& [clusters, times] : stretches(repeated.clusters)) {
      if (!count(clusters.begin, clusters.end, times)) co_return io_error(ENOMEM);
    }
    for (const auto& [place, times] : stretches(repeated.places)) {
      times_ = times;
      const uint64_t entries = (place.end - place.begin + 7) / 8;
      if (tables == &snapshot_l1s_) {
        BB_CO_TRY(co_await walk_l1_entries(place.begin, entries, false));
      } else {
        BB_CO_TRY(co_await walk_bitmap_table(place.begin, entries));
      }
    }
    times_ = 1;
  }
  co_return co_await walk_repeated_l2s();
}

}  // namespace blockbed::qcow2
