#include "block/formats/qcow2/check.h"

#include <fmt/format.h>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/geometry.h"
#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/resident_table.h"
#include "block/formats/qcow2/snapshots.h"

namespace blockbed::qcow2 {

namespace {

// One counter of four bytes for each cluster: 2 GiB at most.
constexpr uint64_t kMaxCheckedClusters = uint64_t{1} << 29;
constexpr std::size_t kKeptFindings = 20;

class Walk {
 public:
  Walk(Storage& file, const Header& header) : file_(file), h_(header), g_(header.geometry()) {}

  Task<Result<void>> run();
  // Compares with the stored counts; `fix` writes right ones.
  Task<Result<void>> compare(bool fix);
  Task<Result<void>> compare_copied(bool fix);

  CheckReport report;

 private:
  void found(CheckFinding::What what, uint64_t cluster, uint64_t counted = 0,
             uint64_t referred = 0);
  // False: outside of the file.
  bool refer(uint64_t offset, uint64_t bytes);
  Task<Result<void>> walk_l1(uint64_t offset, uint64_t entries, bool active);
  Task<Result<void>> walk_l2(uint64_t table, bool active);
  Task<Result<void>> walk_refcounts();
  Task<Result<void>> walk_bitmaps();
  Task<Result<std::vector<uint64_t>>> read_table(uint64_t offset, uint64_t entries);
  uint64_t referred(uint64_t cluster) const {
    return cluster < counts_.size() ? counts_[cluster] : 0;
  }

  Storage& file_;
  const Header& h_;
  const Geometry g_;
  std::vector<uint32_t> counts_;
  std::vector<uint64_t> refcount_table_;
};

void Walk::found(CheckFinding::What what, uint64_t cluster, uint64_t counted, uint64_t referred) {
  if (what == CheckFinding::What::kLeak) {
    ++report.leaks;
  } else {
    ++report.corruptions;
  }
  if (report.findings.size() < kKeptFindings) {
    report.findings.push_back(CheckFinding{what, cluster, counted, referred});
  }
}

bool Walk::refer(uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return true;
  const uint64_t first = offset >> g_.cluster_bits;
  const uint64_t last = (offset + bytes - 1) >> g_.cluster_bits;
  for (uint64_t cluster = first; cluster <= last; ++cluster) {
    if (cluster >= counts_.size()) {
      found(CheckFinding::What::kOutsideFile, cluster);
      return false;
    }
    if (counts_[cluster] < UINT32_MAX) ++counts_[cluster];
    report.end_cluster = std::max(report.end_cluster, cluster + 1);
  }
  return true;
}

Task<Result<std::vector<uint64_t>>> Walk::read_table(uint64_t offset, uint64_t entries) {
  ResidentTable table;
  BB_CO_TRY(co_await table.read(file_, offset, entries));
  co_return table.entries();
}

Task<Result<void>> Walk::walk_l2(uint64_t table, bool active) {
  Buffer bytes(g_.cluster_size);
  BB_CO_TRY(co_await file_.read(table, bytes.io()));
  for (uint32_t i = 0; i < uint32_t{1} << g_.l2_bits; ++i) {
    const L2Entry entry = load_entry(g_, bytes.data(), i);
    if ((entry.value & kEntryCompressed) != 0) {
      const CompressedExtent extent = parse_compressed(g_, entry.value);
      if ((entry.value & kEntryCopied) != 0) {
        found(CheckFinding::What::kBadEntry, extent.offset >> g_.cluster_bits);
      }
      refer(extent.offset, extent.bytes);
      if (active) {
        ++report.allocated_clusters;
        ++report.compressed_clusters;
      }
      continue;
    }
    if ((entry.value & g_.l2_reserved_mask()) != 0) {
      found(CheckFinding::What::kBadEntry, table >> g_.cluster_bits);
    }
    const uint64_t host = entry.value & kOffsetMask;
    if (g_.external_data || host == 0) continue;
    if (g_.in_cluster(host) != 0) {
      found(CheckFinding::What::kBadEntry, host >> g_.cluster_bits);
      continue;
    }
    refer(host, g_.cluster_size);
    if (active) ++report.allocated_clusters;
  }
  co_return Result<void>();
}

Task<Result<void>> Walk::walk_l1(uint64_t offset, uint64_t entries, bool active) {
  if (entries == 0) co_return Result<void>();
  if (g_.in_cluster(offset) != 0 || entries > kMaxL1Bytes / 8) {
    found(CheckFinding::What::kBadEntry, offset >> g_.cluster_bits);
    co_return Result<void>();
  }
  if (!refer(offset, entries * 8)) co_return Result<void>();
  auto l1 = co_await read_table(offset, entries);
  if (!l1) co_return io_error(l1.error());
  for (uint64_t entry : *l1) {
    const uint64_t table = entry & kOffsetMask;
    if ((entry & kL1ReservedMask) != 0)
      found(CheckFinding::What::kBadEntry, offset >> g_.cluster_bits);
    if (table == 0) continue;
    if (g_.in_cluster(table) != 0) {
      found(CheckFinding::What::kBadEntry, table >> g_.cluster_bits);
      continue;
    }
    if (!refer(table, g_.cluster_size)) continue;
    BB_CO_TRY(co_await walk_l2(table, active));
  }
  co_return Result<void>();
}

Task<Result<void>> Walk::walk_refcounts() {
  const uint64_t bytes = uint64_t{h_.refcount_table_clusters} << g_.cluster_bits;
  if (!refer(h_.refcount_table_offset, bytes)) co_return Result<void>();
  auto table = co_await read_table(h_.refcount_table_offset, bytes / 8);
  if (!table) co_return io_error(table.error());
  refcount_table_ = std::move(*table);
  for (uint64_t& entry : refcount_table_) {
    if (entry == 0) continue;
    const uint64_t block = entry & kRefcountTableOffsetMask;
    if (g_.in_cluster(block) != 0 || (entry & ~kRefcountTableOffsetMask) != 0) {
      found(CheckFinding::What::kBadEntry, block >> g_.cluster_bits);
      entry = 0;
    } else if (!refer(block, g_.cluster_size)) {
      entry = 0;
    }
  }
  co_return Result<void>();
}

Task<Result<void>> Walk::walk_bitmaps() {
  if (!h_.bitmaps) co_return Result<void>();
  refer(h_.bitmaps->directory_offset, h_.bitmaps->directory_size);
  auto bitmaps = co_await load_directory(file_, h_);
  if (!bitmaps) {
    found(CheckFinding::What::kBadEntry, h_.bitmaps->directory_offset >> g_.cluster_bits);
    co_return Result<void>();
  }
  for (const StoredBitmap& bitmap : *bitmaps) {
    if (!refer(bitmap.table_offset, uint64_t{bitmap.table_entries} * 8)) continue;
    auto table = co_await read_table(bitmap.table_offset, bitmap.table_entries);
    if (!table) co_return io_error(table.error());
    for (uint64_t entry : *table) {
      const uint64_t host = entry & kOffsetMask;
      if (host == 0) continue;
      if (g_.in_cluster(host) != 0) {
        found(CheckFinding::What::kBadEntry, host >> g_.cluster_bits);
      } else {
        refer(host, g_.cluster_size);
      }
    }
  }
  co_return Result<void>();
}

Task<Result<void>> Walk::run() {
  auto length = co_await file_.length();
  if (!length) co_return io_error(length.error());
  const uint64_t clusters = g_.clusters(*length);
  if (clusters > kMaxCheckedClusters) co_return io_error(EFBIG);
  counts_.assign(clusters, 0);
  refer(0, g_.cluster_size);
  if (h_.crypto) refer(h_.crypto->offset, h_.crypto->length);
  BB_CO_TRY(co_await walk_l1(h_.l1_offset, h_.l1_size, true));
  if (h_.snapshot_count > 0) {
    auto snapshots = co_await load_snapshots(file_, h_);
    if (snapshots) {
      refer(h_.snapshots_offset, snapshots->bytes);
      for (const Snapshot& snapshot : snapshots->snapshots) {
        BB_CO_TRY(co_await walk_l1(snapshot.l1_offset, snapshot.l1_size, false));
      }
    } else {
      found(CheckFinding::What::kBadEntry, h_.snapshots_offset >> g_.cluster_bits);
    }
  }
  BB_CO_TRY(co_await walk_bitmaps());
  co_return co_await walk_refcounts();
}

Task<Result<void>> Walk::compare(bool fix) {
  const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
  Buffer block(g_.cluster_size);
  const uint64_t blocks =
      std::max<uint64_t>(refcount_table_.size(), divide_up(counts_.size(), per_block));
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t host = b < refcount_table_.size() ? refcount_table_[b] : 0;
    if (host != 0) BB_CO_TRY(co_await file_.read(host, block.io()));
    bool changed = false;
    for (uint64_t i = 0; i < per_block; ++i) {
      const uint64_t cluster = b * per_block + i;
      if (host == 0 && cluster >= counts_.size()) break;
      const uint64_t counted = host == 0 ? 0 : get_refcount(block.data(), i, g_.refcount_order);
      const uint64_t wanted = referred(cluster);
      if (counted == wanted) continue;
      found(counted > wanted ? CheckFinding::What::kLeak : CheckFinding::What::kUncounted, cluster,
            counted, wanted);
      if (!fix) continue;
      // No block to write it into, or a count that does not fit: beyond this repair.
      if (host == 0 || wanted > g_.refcount_max()) co_return io_error(EIO);
      set_refcount(block.data(), i, g_.refcount_order, wanted);
      changed = true;
    }
    if (changed) BB_CO_TRY(co_await file_.write(host, block.io()));
  }
  co_return Result<void>();
}

Task<Result<void>> Walk::compare_copied(bool fix) {
  if (h_.l1_size == 0 || g_.in_cluster(h_.l1_offset) != 0) co_return Result<void>();
  auto l1 = co_await read_table(h_.l1_offset, h_.l1_size);
  if (!l1) co_return io_error(l1.error());
  ResidentTable table;
  table.adopt(h_.l1_offset, std::move(*l1));
  Buffer bytes(g_.cluster_size);
  for (uint64_t i = 0; i < table.size(); ++i) {
    const uint64_t host = table[i] & kOffsetMask;
    if (host == 0 || g_.in_cluster(host) != 0) continue;
    const bool single = referred(host >> g_.cluster_bits) == 1;
    if (single != ((table[i] & kEntryCopied) != 0)) {
      found(CheckFinding::What::kCopiedFlag, host >> g_.cluster_bits);
      if (fix) table.set(i, table[i] ^ kEntryCopied);
    }
    BB_CO_TRY(co_await file_.read(host, bytes.io()));
    bool changed = false;
    for (uint32_t e = 0; e < uint32_t{1} << g_.l2_bits; ++e) {
      L2Entry entry = load_entry(g_, bytes.data(), e);
      const uint64_t data = entry.value & kOffsetMask;
      if ((entry.value & kEntryCompressed) != 0 || data == 0 || g_.external_data) continue;
      const bool data_single = referred(data >> g_.cluster_bits) == 1;
      if (data_single == ((entry.value & kEntryCopied) != 0)) continue;
      found(CheckFinding::What::kCopiedFlag, data >> g_.cluster_bits);
      entry.value ^= kEntryCopied;
      store_entry(g_, bytes.data(), e, entry);
      changed = true;
    }
    if (changed && fix) BB_CO_TRY(co_await file_.write(host, bytes.io()));
  }
  if (fix) BB_CO_TRY(co_await table.write_dirty(file_));
  co_return Result<void>();
}

}  // namespace

std::string CheckReport::describe() const {
  std::string text =
      fmt::format("{} leaks, {} corruptions, {} check errors", leaks, corruptions, check_errors);
  for (const CheckFinding& f : findings) {
    constexpr const char* kWords[] = {"leak", "uncounted", "bad entry", "wrong COPIED flag",
                                      "outside the file"};
    text += fmt::format("; cluster {}: {} (refcount {}, references {})", f.cluster,
                        kWords[static_cast<int>(f.what)], f.counted, f.referred);
  }
  return text;
}

Task<Result<CheckReport>> check_image(Storage& file, const Header& header) {
  Walk walk(file, header);
  BB_CO_TRY(co_await walk.run());
  BB_CO_TRY(co_await walk.compare(false));
  BB_CO_TRY(co_await walk.compare_copied(false));
  co_return std::move(walk.report);
}

Task<Result<void>> repair_counts(Storage& file, const Header& header) {
  Walk walk(file, header);
  BB_CO_TRY(co_await walk.run());
  if (walk.report.corruptions > 0) co_return io_error(EIO);
  BB_CO_TRY(co_await walk.compare(true));
  BB_CO_TRY(co_await walk.compare_copied(true));
  co_return co_await file.flush();
}

}  // namespace blockbed::qcow2
