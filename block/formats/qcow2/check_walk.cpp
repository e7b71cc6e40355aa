// Checker: following every reference.
#include "block/formats/qcow2/check_walk.h"

#include <fmt/format.h>

#include <cstring>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

// Long tables are read in parts.
constexpr uint64_t kReadAtOnce = 1 << 20;
// Places behind the end that are remembered.
constexpr std::size_t kMaxDangling = 65536;
constexpr uint64_t kLastOffset = static_cast<uint64_t>(INT64_MAX);
// Bit 0 says that bits without a cluster are ones.
constexpr uint64_t kBitmapEntryReservedMask = 0xff000000000001feu;

}  // namespace

Checker::Checker(Storage& file, Header& header, RepairOptions options, CheckReport& report,
                 FindingSink sink)
    : file_(file),
      h_(header),
      g_(header.geometry()),
      options_(options),
      report_(report),
      sink_(std::move(sink)),
      counts_(header.refcount_order) {}

void Checker::tell(CheckFinding finding) {
  if (report_.findings.size() < kKeptFindings) report_.findings.push_back(finding);
  if (sink_) sink_(finding);
}

void Checker::corruption(FaultClass fault, uint64_t offset, std::string text) {
  corruption(fault, offset, std::move(text), times_);
}

void Checker::corruption(FaultClass fault, uint64_t offset, std::string text, uint64_t times) {
  report_.corruptions += times;
  CheckFinding finding;
  finding.fault = fault;
  finding.offset = offset;
  finding.bytes = g_.cluster_size;
  finding.text = std::move(text);
  tell(std::move(finding));
}

void Checker::wrong_entry(FaultClass fault, uint64_t offset, uint64_t counted,
                          std::string_view text, EntryRepair repair) {
  (repair == EntryRepair::kDone ? report_.corruptions_fixed : report_.corruptions) += times_;
  CheckFinding finding;
  finding.fault = fault;
  finding.repaired = repair != EntryRepair::kNotAsked;
  finding.offset = offset;
  finding.bytes = g_.cluster_size;
  finding.counted = counted;
  finding.text = fmt::format("{} {}", finding.repaired ? "Repairing" : "ERROR", text);
  tell(std::move(finding));
}

void Checker::note(std::string text) {
  CheckFinding finding;
  finding.text = std::move(text);
  tell(std::move(finding));
}

void Checker::protect(RegionSet& places, uint64_t offset, uint64_t bytes) const {
  if (bytes > 0) {
    places.add(g_.cluster_start(offset), align_up(offset + bytes, g_.cluster_size));
  }
}

Checker::Region Checker::l1_region() const {
  if (h_.l1_size == 0) return Region();
  return Region{g_.cluster_start(h_.l1_offset),
                align_up(h_.l1_offset + uint64_t{h_.l1_size} * 8, g_.cluster_size)};
}

bool Checker::is_other_metadata(uint64_t offset, uint64_t bytes) const {
  return is_flag_of_others(offset, bytes) ||
         protected_snapshot_l1s_.overlaps(offset, offset + bytes);
}

bool Checker::is_flag_of_others(uint64_t offset, uint64_t bytes) const {
  const Region l1 = l1_region();
  return protected_.overlaps(offset, offset + bytes) ||
         (l1.begin < offset + bytes && offset < l1.end);
}

Task<Result<Buffer>> Checker::read_piece(uint64_t offset, uint64_t bytes) {
  if (offset >= length_) co_return Buffer::zeroed(bytes);
  Buffer buffer(bytes);
  const uint64_t inside = std::min(bytes, length_ - offset);
  std::memset(buffer.data() + inside, 0, bytes - inside);
  BB_CO_TRY(co_await file_.read(offset, buffer.io(0, inside)));
  co_return buffer;
}

// A file that takes a few megabytes of a disk can have terabytes of tables in its holes. Where
// tables hold what they should nobody asks for holes: where data ends is found out in a time that
// grows with the number of pieces that the file system keeps it in.
Task<Result<Buffer>> Checker::read_table(uint64_t offset, uint64_t bytes) {
  if (offset >= length_) co_return Buffer();
  if (co_await is_in_hole(offset, std::min(bytes, length_ - offset))) co_return Buffer();
  auto table = co_await read_piece(offset, bytes);
  if (table) read_zeroes_ = all_zero(table->data(), bytes);
  co_return table;
}

Task<bool> Checker::is_in_hole(uint64_t offset, uint64_t bytes) {
  const auto is_known = [&] { return hole_.begin <= offset && offset + bytes <= hole_.end; };
  if (is_known()) co_return true;
  if (!read_zeroes_) co_return false;
  const auto status = co_await file_.block_status(offset, length_ - offset);
  // Who cannot tell is read.
  if (!status || !status->zero) co_return false;
  hole_ = Region{offset, offset + status->length};
  co_return is_known();
}

Task<Result<void>> Checker::write(uint64_t offset, IoVector bytes) {
  hole_ = Region();
  return file_.write(offset, std::move(bytes));
}

bool Checker::is_inside(uint64_t offset, uint64_t bytes) {
  const bool overflows = offset > kLastOffset || bytes > kLastOffset - offset;
  if (!overflows && (offset + bytes <= length_ || offset + bytes - length_ < g_.cluster_size)) {
    return true;
  }
  corruption(FaultClass::kOutsideFile, offset,
             fmt::format("ERROR: counting reference for region exceeding the end of the file by "
                         "one cluster or more: offset {:#x} size {:#x}",
                         offset, bytes));
  if (!overflows && dangling_.size() < kMaxDangling) {
    dangling_.add(g_.cluster_start(offset), align_up(offset + bytes, g_.cluster_size));
  }
  return false;
}

bool Checker::refer(const Referrer& by, uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return true;
  const bool inside = is_inside(offset, bytes);
  watch(by, offset, bytes, inside);
  if (!inside) return false;
  const uint64_t first = offset >> g_.cluster_bits;
  const uint64_t last = (offset + bytes - 1) >> g_.cluster_bits;
  return count(first, last + 1, times_);
}

bool Checker::count(uint64_t first, uint64_t end, uint64_t times) {
  counted_clusters_ = std::max(counted_clusters_, end);
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    const auto too_many = counts_.add(cluster, times);
    if (!too_many) {
      no_memory_ = true;
      return false;
    }
    if (*too_many == 0) continue;
    const uint64_t offset = cluster << g_.cluster_bits;
    corruption(FaultClass::kCountOverflow, offset,
               fmt::format("ERROR: overflow cluster offset={:#x}\n"
                           "Use qemu-img amend to increase the refcount entry width or "
                           "qemu-img convert to create a clean copy if the image cannot be "
                           "opened for writing",
                           offset),
               *too_many);
  }
  return true;
}

// --- L1 tables

Task<Result<void>> Checker::walk_l1(uint64_t offset, uint64_t entries,
                                    const SnapshotEntry* snapshot) {
  Referrer by;
  by.owner = snapshot == nullptr ? Owner::kActiveL1 : Owner::kSnapshotL1;
  if (snapshot != nullptr) {
    by.index = static_cast<uint64_t>(snapshot - snapshots_.entries.data());
    if (is_looked_at_later(snapshot_l1s_, by, offset, entries)) co_return Result<void>();
  }
  refer(by, offset, entries * 8);
  co_return co_await walk_l1_entries(offset, entries, snapshot == nullptr);
}

Task<Result<void>> Checker::walk_l1_entries(uint64_t offset, uint64_t entries, bool active) {
  if (offset > kLastOffset || offset >= length_) co_return Result<void>();
  // What is behind the end of the file is zero.
  const uint64_t bytes = std::min(entries * 8, length_ - offset);
  for (uint64_t at = 0; at < bytes; at += kReadAtOnce) {
    const uint64_t here = std::min(kReadAtOnce, align_up(bytes - at, 8));
    auto piece = co_await read_table(offset + at, here);
    if (!piece) co_return io_error(piece.error());
    if (piece->empty()) continue;
    for (uint64_t i = 0; i < here / 8; ++i) {
      const uint64_t entry = load_be64(piece->data() + i * 8);
      if (entry == 0) continue;
      const uint64_t index = at / 8 + i;
      if ((entry & kL1ReservedMask) != 0) {
        corruption(FaultClass::kReservedBits, offset + index * 8,
                   fmt::format("ERROR found L1 entry with reserved bits set: {:x}", entry));
      }
      const uint64_t table = entry & kOffsetMask;
      const Referrer by{active ? Owner::kActiveL2 : Owner::kSnapshotL2, offset, index,
                        index * g_.l2_coverage()};
      if (is_again(table) && !can_look_again(uint64_t{1} << g_.l2_bits)) {
        BB_CO_TRY(co_await look_at_l2_later(by, table));
        continue;
      }
      refer(by, table, g_.cluster_size);
      if (g_.in_cluster(table) != 0) {
        corruption(FaultClass::kUnaligned, table,
                   fmt::format("ERROR l2_offset={:x}: Table is not cluster aligned; L1 entry "
                               "corrupted",
                               table));
      }
      BB_CO_TRY(co_await walk_l2(table, index, active));
      if (no_memory_) co_return io_error(ENOMEM);
    }
  }
  co_return Result<void>();
}

Task<Result<void>> Checker::walk_snapshots() {
  if (g_.external_data && h_.snapshot_count > 0) {
    corruption(FaultClass::kExternalData, h_.snapshots_offset,
               fmt::format("ERROR {} snapshots in image with data file", h_.snapshot_count));
  }
  for (std::size_t number = 0; number < snapshots_.entries.size(); ++number) {
    const SnapshotEntry& snapshot = snapshots_.entries[number];
    // As C strings: what is shown ends at a zero byte.
    const std::string who =
        fmt::format("ERROR snapshot {} ({})", snapshot.id.c_str(), snapshot.name.c_str());
    if (g_.in_cluster(snapshot.l1_offset) != 0) {
      corruption(FaultClass::kUnaligned, snapshot.l1_offset,
                 fmt::format("{} l1_offset={:#x}: L1 table is not cluster aligned; snapshot table "
                             "entry corrupted",
                             who, snapshot.l1_offset));
      watch(Referrer{Owner::kSnapshotL1, 0, number, 0}, snapshot.l1_offset, 1, false);
      continue;
    }
    if (snapshot.l1_size > kMaxL1Bytes / 8) {
      corruption(FaultClass::kSnapshotTable, h_.snapshots_offset,
                 fmt::format("{} l1_size={:#x}: L1 table is too large; snapshot table entry "
                             "corrupted",
                             who, snapshot.l1_size));
      continue;
    }
    BB_CO_TRY(co_await walk_l1(snapshot.l1_offset, snapshot.l1_size, &snapshot));
  }
  snapshot_table_counted_ =
      refer(Referrer{Owner::kSnapshotTable, 0, 0, 0}, h_.snapshots_offset, snapshots_.bytes);
  co_return Result<void>();
}

// --- bitmaps

Task<Result<void>> Checker::walk_bitmaps() {
  if (!h_.bitmaps) co_return Result<void>();
  auto bitmaps = co_await load_directory(file_, h_);
  // Whoever opened the image has read it already.
  if (!bitmaps) {
    corruption(FaultClass::kReservedBits, h_.bitmaps->directory_offset,
               fmt::format("ERROR {}", bitmaps.error().description));
    refer(Referrer{Owner::kBitmapDirectory, 0, 0, 0}, h_.bitmaps->directory_offset,
          h_.bitmaps->directory_size);
    co_return Result<void>();
  }
  refer(Referrer{Owner::kBitmapDirectory, 0, 0, 0}, h_.bitmaps->directory_offset,
        h_.bitmaps->directory_size);
  for (std::size_t number = 0; number < bitmaps->size(); ++number) {
    const StoredBitmap& bitmap = (*bitmaps)[number];
    const Referrer by{Owner::kBitmapTable, 0, number, 0};
    if (is_looked_at_later(bitmap_tables_, by, bitmap.table_offset, bitmap.table_entries)) continue;
    refer(by, bitmap.table_offset, uint64_t{bitmap.table_entries} * 8);
    BB_CO_TRY(co_await walk_bitmap_table(bitmap.table_offset, bitmap.table_entries));
  }
  co_return Result<void>();
}

Task<Result<void>> Checker::walk_bitmap_table(uint64_t table, uint64_t entries) {
  if (table >= length_) co_return Result<void>();
  const uint64_t inside = std::min(entries * 8, length_ - table);
  for (uint64_t at = 0; at < inside; at += kReadAtOnce) {
    const uint64_t here = std::min(kReadAtOnce, align_up(inside - at, 8));
    auto piece = co_await read_table(table + at, here);
    if (!piece) co_return io_error(piece.error());
    if (piece->empty()) continue;
    for (uint64_t i = 0; i < here / 8; ++i) {
      const uint64_t entry = load_be64(piece->data() + i * 8);
      const uint64_t host = entry & kOffsetMask;
      if ((entry & kBitmapEntryReservedMask) != 0 || (host != 0 && (entry & 1) != 0)) {
        corruption(
            FaultClass::kReservedBits, table + at + i * 8,
            fmt::format("ERROR found bitmap table entry with reserved bits set: {:x}", entry));
      }
      if (host == 0) continue;
      if (g_.in_cluster(host) != 0) {
        corruption(FaultClass::kUnaligned, host,
                   fmt::format("ERROR offset={:x}: Bitmap data is not cluster aligned", host));
      }
      refer(Referrer{Owner::kBitmapData, table, at / 8 + i, 0}, host, g_.cluster_size);
      if (no_memory_) co_return io_error(ENOMEM);
    }
  }
  co_return Result<void>();
}

// --- refcount structures

Task<Result<void>> Checker::look_at_refcount_block(uint64_t index, uint64_t entry) {
  const uint64_t position = h_.refcount_table_offset + index * 8;
  const uint64_t block = entry & kRefcountTableOffsetMask;
  const Referrer by{Owner::kRefcountBlock, h_.refcount_table_offset, index, 0};
  if ((entry & ~kRefcountTableOffsetMask) != 0) {
    corruption(FaultClass::kReservedBits, position,
               fmt::format("ERROR refcount table entry {} has reserved bits set", index));
    broken_structures_ = true;
    co_return Result<void>();
  }
  if (g_.in_cluster(block) != 0) {
    corruption(FaultClass::kUnaligned, block,
               fmt::format("ERROR refcount block {} is not cluster aligned; refcount table entry "
                           "corrupted",
                           index));
    watch(by, block, 1, false);
    broken_structures_ = true;
    co_return Result<void>();
  }
  if (block >> g_.cluster_bits >= used_clusters()) {
    if (!repairs_all()) {
      watch(by, block, 1, false);
      corruption(FaultClass::kOutsideFile, block,
                 fmt::format("ERROR refcount block {} is outside image", index));
      co_return Result<void>();
    }
    CheckFinding finding;
    finding.fault = FaultClass::kOutsideFile;
    finding.repaired = true;
    finding.offset = block;
    finding.text = fmt::format("Repairing refcount block {} is outside image", index);
    tell(std::move(finding));
    Errno error(EINVAL);
    bool grown = false;
    if (block <= kLastOffset - g_.cluster_size) {
      error = Errno(EFBIG);
      if (block + g_.cluster_size <= longest_) {
        grown = (co_await file_.truncate(block + g_.cluster_size, TruncateOptions())).has_value();
      }
    }
    if (!grown) {
      ++report_.corruptions;
      broken_structures_ = true;
      note(fmt::format("ERROR could not resize image: {}", strerror_text(error)));
      co_return Result<void>();
    }
    length_ = block + g_.cluster_size;
    ++report_.corruptions_fixed;
  }
  // Counts of one bit do not tell one reference from more.
  const bool is_taken = counts_[block >> g_.cluster_bits] != 0;
  const bool is_counted = refer(by, block, g_.cluster_size);
  if (watched_ != nullptr) co_return Result<void>();
  const uint64_t count = counts_[block >> g_.cluster_bits];
  if (count != 1) {
    corruption(FaultClass::kRefcountBlock, block,
               fmt::format("ERROR refcount block {} refcount={}", index, count));
  }
  broken_structures_ |= count != 1 || (is_taken && is_counted);
  co_return Result<void>();
}

Task<Result<void>> Checker::read_refcount_table() {
  const uint64_t bytes = uint64_t{h_.refcount_table_clusters} << g_.cluster_bits;
  refcount_table_.assign(bytes / 8, 0);
  if (h_.refcount_table_offset >= length_ || bytes == 0) co_return Result<void>();
  auto table = co_await read_table(h_.refcount_table_offset, bytes);
  if (!table) co_return io_error(table.error());
  if (table->empty()) co_return Result<void>();
  for (uint64_t i = 0; i < refcount_table_.size(); ++i) {
    refcount_table_[i] = load_be64(table->data() + i * 8);
    const uint64_t block = refcount_table_[i] & kRefcountTableOffsetMask;
    if (block != 0 && block < length_) protect(protected_, block, g_.cluster_size);
  }
  co_return Result<void>();
}

Task<Result<void>> Checker::walk_refcount_structures() {
  const uint64_t bytes = uint64_t{h_.refcount_table_clusters} << g_.cluster_bits;
  refer(Referrer{Owner::kRefcountTable, 0, 0, 0}, h_.refcount_table_offset, bytes);
  for (uint64_t i = 0; i < refcount_table_.size(); ++i) {
    if (refcount_table_[i] == 0) continue;
    BB_CO_TRY(co_await look_at_refcount_block(i, refcount_table_[i]));
    if (no_memory_) co_return io_error(ENOMEM);
  }
  co_return Result<void>();
}

// --- all of it

Task<Result<void>> Checker::walk() {
  auto length = co_await file_.length();
  if (!length) co_return io_error(length.error());
  length_ = *length;
  longest_ = length_ + kMaxGrowthForBlocks;
  counts_.clear();
  counted_clusters_ = 0;
  broken_structures_ = uncounted_ = false;
  count_pieces_.clear();
  dangling_.clear();
  looked_again_ = 0;
  protected_.clear();
  protected_snapshot_l1s_.clear();
  protect(protected_, 0, g_.cluster_size);
  protect(protected_, h_.refcount_table_offset,
          uint64_t{h_.refcount_table_clusters} << g_.cluster_bits);
  protect(protected_, h_.snapshots_offset, snapshots_.bytes);
  for (const SnapshotEntry& snapshot : snapshots_.entries) {
    if (snapshot.l1_offset > kLastOffset || snapshot.l1_size > kMaxL1Bytes / 8) continue;
    protect(protected_snapshot_l1s_, snapshot.l1_offset, uint64_t{snapshot.l1_size} * 8);
  }
  if (h_.bitmaps) {
    protect(protected_, h_.bitmaps->directory_offset, h_.bitmaps->directory_size);
  }

  BB_CO_TRY(co_await read_refcount_table());

  refer(Referrer{Owner::kHeader, 0, 0, 0}, 0, g_.cluster_size);
  BB_CO_TRY(co_await walk_l1(h_.l1_offset, h_.l1_size, nullptr));
  BB_CO_TRY(co_await walk_snapshots());
  if (h_.crypto) {
    refer(Referrer{Owner::kCrypto, 0, 0, 0}, h_.crypto->offset, h_.crypto->length);
  }
  BB_CO_TRY(co_await walk_bitmaps());
  BB_CO_TRY(co_await walk_repeated());
  BB_CO_TRY(co_await walk_refcount_structures());
  if (no_memory_) co_return io_error(ENOMEM);
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
