#include "tests/qcow2/order_judge_fixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2::test {

using sim::Change;
using sim::kSector;
using sim::StorageEvent;

namespace {

constexpr OrderRow kRows[] = {
    {OrderRule::kNobodys, "nobody's cluster", "1, bitmaps 1, snapshots",
     "what is no entry, flag or count of a present table is written where nothing refers to"},
    {OrderRule::kUnshared, "unshared", "1, 5",
     "in place changes only what one alone refers to; in tables of others no more than COPIED"},
    {OrderRule::kBlockWritten, "block written", "1, 3, 4",
     "before an entry of the refcount table: the block that it refers to"},
    {OrderRule::kBlockCounted, "block counted", "1, 3, 4",
     "before an entry of the refcount table: the count of the block that it refers to"},
    {OrderRule::kCountsLinked, "counts linked", "4",
     "before a reference: the entry of the refcount table by which it is counted"},
    {OrderRule::kDataWritten, "data written", "1, 3, 5",
     "before an entry of an L2 table: the bytes of the cluster that it shows"},
    {OrderRule::kDataCounted, "data counted", "2, 3, 5",
     "before an entry of an L2 table: the count of the cluster that it refers to"},
    {OrderRule::kTableWritten, "table written", "1, 5, 6",
     "before an entry of the L1 table: the L2 table that it refers to"},
    {OrderRule::kTableCounted, "table counted", "2, 3, 6",
     "before an entry of the L1 table: the count of the L2 table that it refers to"},
    {OrderRule::kRemovedBeforeUncounted, "removed before uncounted", "7, 8",
     "before a count falls: the removal of what referred to the cluster"},
    {OrderRule::kRemovedBeforeReuse, "removed before reuse", "7, 8",
     "before a cluster is written anew or cut off: the removal of what referred to it"},
    {OrderRule::kRemovedBeforeDiscard, "removed before discard", "7, 8",
     "before a place is discarded: the removal of what showed its bytes"},
    {OrderRule::kCopied, "copied", "snapshots",
     "COPIED stands only where nothing else refers to the cluster"},
    {OrderRule::kSwitchWritten, "switch: written", "growth, width, snapshots 3",
     "before the header names other tables: these and the tables that they refer to"},
    {OrderRule::kSwitchCounted, "switch: counted", "growth, width, snapshots 3",
     "before the header names other tables: the counts of all that they refer to, lazy or not"},
    {OrderRule::kLength, "length", "length",
     "before the length grows: the L1 table for it; before it falls: the removal of what is cut"},
    {OrderRule::kNoZeroFlags, "no zero flags", "older version",
     "before the header says version 2: the removal of each zero flag, also of snapshots"},
    {OrderRule::kDirtyBeforeUncounted, "dirty before uncounted", "lazy refcounts",
     "before a reference to what is not counted: the dirty bit"},
    {OrderRule::kCountedBeforeClean, "counted before clean", "lazy refcounts",
     "before the dirty bit is cleared: the counts of everything"},
    {OrderRule::kInUseBeforeChange, "in use before change", "bitmaps",
     "before guest data changes: the in-use flag of each bitmap"},
    {OrderRule::kDirectoryWritten, "directory: written", "bitmaps 1, 2, 3",
     "before the header names a directory: it, its tables and the bits"},
    {OrderRule::kDirectoryCounted, "directory: counted", "bitmaps 2, 3",
     "before the header names a directory: the counts of it, its tables and the bits"},
    {OrderRule::kDirectoryInUse, "directory: in use", "bitmaps 1",
     "before the header names a directory: the in-use flag of each bitmap in it"},
    {OrderRule::kNoMixture, "directory: no mixture", "bitmaps 3",
     "while the feature bit may be there the header names a directory as a whole"},
    {OrderRule::kAllBeforeConsistent, "all before consistent", "bitmaps 2, 4",
     "before a bitmap may be believed: everything that was written to image and data file"},
};
static_assert(std::size(kRows) == kOrderRules && [] {
  for (std::size_t i = 0; i < kOrderRules; ++i) {
    if (kRows[i].rule != static_cast<OrderRule>(i)) return false;
  }
  return true;
}());

}  // namespace

std::span<const OrderRow> order_rows() { return kRows; }

std::string describe(const OrderFault& fault) {
  const OrderRow& row = kRows[static_cast<std::size_t>(fault.rule)];
  return fmt::format("operation {} breaks \"{}\" (step {}: {}): {}", fault.operation, row.name,
                     row.step, row.demands, fault.what);
}

OrderJudge::OrderJudge(const sim::SimStorage& storage, const std::string& image,
                       const std::string& data) {
  for (const auto& [number, path] : storage.recorded_names()) {
    if (path != image && path != data) continue;
    (path == image ? image_number_ : data_number_) = number;
    files_[number].disk = OrderDisk(storage.recorded_start().at(path));
  }
  start();
}

OrderJudge::OrderJudge(sim::SparseBytes image, std::optional<sim::SparseBytes> data) {
  image_number_ = 1;
  data_number_ = 2;
  files_[1].disk = OrderDisk(std::move(image));
  if (data) files_[2].disk = OrderDisk(std::move(*data));
  start();
}

void OrderJudge::start() {
  const HeaderFields header = newest_header(image().disk);
  constexpr uint64_t kDataFile = 4;
  constexpr uint64_t kExtended = 16;
  g_ = Geometry(header.version, header.cluster_bits, header.refcount_order,
                (header.incompatible & kExtended) != 0, kDefaultL2PieceBytes);
  g_.external_data = (header.incompatible & kDataFile) != 0;
  graph_ = OrderGraph::read(image().disk, g_);
  if (graph_.header().bitmaps) directories_.insert(*graph_.header().bitmaps);
}

bool OrderJudge::is_flush(const StorageEvent& event) const {
  return event.kind == StorageEvent::Kind::kFlushEnds && files_.contains(event.file);
}

void OrderJudge::feed(const StorageEvent& event) {
  ++operation_;
  const auto file = files_.find(event.file);
  if (file == files_.end() || !faults_.empty()) return;
  OrderDisk& disk = file->second.disk;
  std::map<uint64_t, uint64_t>& flushes = file->second.flushes;
  switch (event.kind) {
    case StorageEvent::Kind::kChangeBegins:
      begin(event);
      break;
    case StorageEvent::Kind::kChangeTakesEffect:
      disk.effect(event.request, operation_, event.change);
      break;
    case StorageEvent::Kind::kChangeEnds:
      disk.fail(event.request);
      stale_ = unsure_ = true;
      break;
    case StorageEvent::Kind::kFlushBegins:
      flushes[event.request] = operation_;
      break;
    case StorageEvent::Kind::kFlushEnds:
      for (const uint64_t sector : disk.make_durable(flushes.at(event.request))) {
        const uint64_t cluster = sector * kSector >> g_.cluster_bits;
        stale_ |= event.file == image_number_ && (cluster == 0 || graph_.table(cluster) != nullptr);
      }
      flushes.erase(event.request);
      break;
    case StorageEvent::Kind::kFlushFails:
      flushes.erase(event.request);
      unsure_ = true;
      break;
    default:
      break;
  }
}

void OrderJudge::broken(OrderRule rule, const std::string& what) {
  faults_.push_back(OrderFault{
      rule, operation_, fmt::format("{} bytes at {}: {}", change_.length, change_.offset, what)});
}

void OrderJudge::refresh() {
  if (stale_) graph_ = OrderGraph::read(image().disk, g_);
  stale_ = false;
  unsure_ &= graph_.views.size() > 1;
}

void OrderJudge::begin(const StorageEvent& event) {
  const Change& change = change_ = event.change;
  const bool in_image = event.file == image_number_;
  refresh();
  OrderDisk& disk = files_.at(event.file).disk;
  const bool cut = change.kind == Change::Kind::kResize;
  if (change.kind == Change::Kind::kDiscard) {
    judge_discard(change, in_image);
  } else if (in_image) {
    judge_place(change.offset, cut ? disk.size() : change.end(), cut);
  }
  if (!cut && in_image != g_.external_data) judge_guest_write(change);
  if (cut || !in_image || !touches_tables(change)) {
    disk.begin(event.request, operation_, change);
    return;
  }
  const std::vector<Before> entries = entries_of(change);
  disk.begin(event.request, operation_, change);
  const OrderGraph before = std::move(graph_);
  graph_ = OrderGraph::read(disk, g_);
  if (graph_.header().bitmaps) directories_.insert(*graph_.header().bitmaps);
  for (const Before& sector : entries) {
    if (sector.table.part == Part::kRefcountBlock) judge_counts(sector);
    if (sector.table.part == Part::kL2 || sector.table.part == Part::kL1) judge_entries(sector);
    if (sector.table.part == Part::kBitmapDirectory) {
      judge_directory(before, sector.bytes, sector.sector);
    }
  }
  judge_new_tables(before, change.offset < g_.cluster_size);
  judge_references(before);
  judge_content(before);
  judge_copied(before);
  judge_length(before);
  judge_version(before);
  judge_bitmaps(before, event.request);
  hide(before, event.request);
}

bool OrderJudge::touches_tables(const Change& change) const {
  for (uint64_t c = change.offset >> g_.cluster_bits; c < g_.clusters(change.end()); ++c) {
    if (c == 0 || graph_.table(c) != nullptr) return true;
  }
  return false;
}

std::vector<OrderJudge::Before> OrderJudge::entries_of(const Change& change) const {
  std::vector<Before> entries;
  for (uint64_t s = change.offset / kSector; s * kSector < change.end(); ++s) {
    const uint64_t cluster = s * kSector >> g_.cluster_bits;
    const OrderGraph::Table* table = graph_.table(cluster);
    if (table == nullptr || !table->now) continue;
    entries.push_back(Before{s, cluster, *table, {}});
    image().disk.read_newest(s * kSector, entries.back().bytes);
  }
  return entries;
}

void OrderJudge::judge_place(uint64_t from, uint64_t to, bool cut) {
  if (from >= to) return;
  for (uint64_t c = from >> g_.cluster_bits; c < g_.clusters(to); ++c) {
    if (c == 0) continue;
    const uint32_t now = graph_.references_now(c);
    const uint32_t most = graph_.most_references(c);
    auto what = [&] { return fmt::format("cluster {}, referred to {} times", c, most); };
    const Part part = graph_.part(c);
    if (part == Part::kCompressed) {
      expect(OrderRule::kRemovedBeforeReuse, !overwrites_compressed(c, from, to), what);
    } else if (now == 0 || cut) {
      expect(OrderRule::kRemovedBeforeReuse, most == 0 || (unsure_ && !cut), what);
    } else if (part == Part::kData) {
      // Nobody sees what is behind a zero flag.
      expect(OrderRule::kUnshared, most == 1 || !may_be_shown(c), what);
    }
    if (cut) continue;
    expect(OrderRule::kNobodys,
           now == 0 || (part != Part::kSnapshotTable && part != Part::kBitmapTable &&
                        part != Part::kBitmapBits),
           what);
  }
}

// Compressed bytes are written behind others in the same cluster; where those end is not known.
bool OrderJudge::overwrites_compressed(uint64_t cluster, uint64_t from, uint64_t to) const {
  for (const OrderGraph::Content& content : graph_.content) {
    if (content.compressed ? content.target >= from && content.target < to
                           : content.target >> g_.cluster_bits == cluster) {
      return true;
    }
  }
  return false;
}

bool OrderJudge::may_be_shown(uint64_t cluster) const {
  const uint64_t first = cluster << (g_.cluster_bits - g_.subcluster_bits);
  for (uint64_t p = 0; p < g_.subclusters; ++p) {
    if (OrderGraph::has(graph_.may_be_shown, first + p)) return true;
  }
  return false;
}

void OrderJudge::judge_discard(const Change& change, bool in_image) {
  const uint32_t part_bits = g_.subcluster_bits;
  for (uint64_t at = change.offset; at < change.end(); at += g_.subcluster_size()) {
    if (in_image && graph_.part(at >> g_.cluster_bits) != Part::kData) {
      expect(OrderRule::kRemovedBeforeDiscard, graph_.most_references(at >> g_.cluster_bits) == 0,
             [&] { return fmt::format("discard of a table or compressed bytes at {}", at); });
    } else if (in_image != g_.external_data && !graph_.header().raw) {
      expect(OrderRule::kRemovedBeforeDiscard,
             !OrderGraph::has(graph_.may_be_shown, at >> part_bits),
             [&] { return fmt::format("discard at {}", at); });
    }
  }
}

bool OrderJudge::bitmaps_believed() const {
  return std::ranges::any_of(graph_.views, [](const auto& v) { return !v.believed.empty(); });
}

void OrderJudge::judge_guest_write(const Change& change) {
  for (uint64_t at = change.offset; at < change.end(); at += g_.subcluster_size()) {
    if (!OrderGraph::has(graph_.shown, at >> g_.subcluster_bits)) continue;
    if (graph_.header().bitmaps) {
      expect(OrderRule::kInUseBeforeChange, !bitmaps_believed(),
             [&] { return fmt::format("guest data at {}", at); });
    }
    return;
  }
}

void OrderJudge::judge_counts(const Before& before) {
  const uint32_t order = before.table.order;
  OrderDisk::Sector bytes;
  image().disk.read_newest(before.sector * kSector, bytes);
  const uint64_t per_sector = kSector * 8 >> order;
  const uint64_t in_block = before.sector - (before.cluster << g_.cluster_bits) / kSector;
  for (uint64_t i = 0; i < per_sector; ++i) {
    const uint64_t old = get_refcount(before.bytes.data(), i, order);
    const uint64_t count = get_refcount(bytes.data(), i, order);
    if (count >= old) continue;
    const uint64_t cluster = before.table.first_counted + in_block * per_sector + i;
    const uint64_t most = graph_.most_references(cluster);
    expect(OrderRule::kRemovedBeforeUncounted, most <= count, [&] {
      return fmt::format("cluster {} falls from {} to {}, referred to {} times", cluster, old,
                         count, most);
    });
  }
}

void OrderJudge::judge_entries(const Before& before) {
  OrderDisk::Sector bytes;
  image().disk.read_newest(before.sector * kSector, bytes);
  const uint64_t entry_bytes = before.table.part == Part::kL1 ? 8 : g_.entry_bytes;
  const bool alone = before.table.active && graph_.most_references(before.cluster) <= 1;
  for (uint64_t in = 0; in < kSector; in += entry_bytes) {
    const std::byte* const old = before.bytes.data() + in;
    const std::byte* const now = bytes.data() + in;
    if (((load_be64(old) ^ load_be64(now)) & ~kEntryCopied) == 0 &&
        std::memcmp(old + 8, now + 8, entry_bytes - 8) == 0) {
      continue;
    }
    auto what = [&] {
      return fmt::format("entry at {} of the table {}: {:#x} to {:#x}",
                         before.sector * kSector + in, before.cluster, load_be64(old),
                         load_be64(now));
    };
    // A zero flag goes for all when the image becomes one of version 2.
    const bool zero_flag =
        before.table.part == Part::kL2 && (load_be64(old) & kEntryZero) != 0 && !g_.extended_l2;
    expect(OrderRule::kUnshared, alone || zero_flag, what);
    if (before.table.active && graph_.header().bitmaps) {
      expect(OrderRule::kInUseBeforeChange, !bitmaps_believed(), what);
    }
  }
}

OrderVerdict judge_order(const sim::SimStorage& storage, const std::string& data) {
  OrderJudge judge(storage, "disk", data);
  for (const StorageEvent& event : storage.recording()) judge.feed(event);
  return {judge.faults(), judge.asked()};
}

namespace {

// Judges what follows `at`, where the first of them ended. What breaks because of it does so before
// flushes of the same files have ended that began behind the last.
std::vector<OrderFault> judge_without(OrderJudge judge, std::span<const StorageEvent> events,
                                      std::size_t at, int count) {
  std::set<uint64_t> files;
  std::set<uint64_t> later;
  for (std::size_t i = at; i < events.size() && judge.faults().empty(); ++i) {
    if (count > 0 && judge.is_flush(events[i])) {
      judge.skip();
      files.insert(events[i].file);
      --count;
      continue;
    }
    judge.feed(events[i]);
    if (count > 0) continue;
    if (events[i].kind == StorageEvent::Kind::kFlushBegins) later.insert(events[i].request);
    if (events[i].kind == StorageEvent::Kind::kFlushEnds && later.contains(events[i].request)) {
      files.erase(events[i].file);
    }
    if (files.empty()) break;
  }
  return judge.faults();
}

}  // namespace

std::vector<std::vector<OrderFault>> leave_out_flushes(const sim::SimStorage& storage, int count) {
  std::vector<std::vector<OrderFault>> faults;
  OrderJudge judge(storage, "disk", "data");
  const std::vector<StorageEvent>& events = storage.recording();
  for (std::size_t i = 0; i < events.size(); ++i) {
    if (judge.is_flush(events[i])) faults.push_back(judge_without(judge, events, i, count));
    judge.feed(events[i]);
  }
  return faults;
}

}  // namespace blockbed::qcow2::test
