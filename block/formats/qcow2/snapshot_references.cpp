#include "block/formats/qcow2/snapshot_references.h"

#include <fmt/format.h>

#include "block/formats/qcow2/mapping.h"

namespace blockbed::qcow2 {

namespace {

Task<Result<void>> count_range(Metadata& metadata, uint64_t host, uint64_t bytes,
                               Counting counting) {
  switch (counting) {
    case Counting::kAdd:
      return metadata.add_refcounts(host, bytes, 1);
    case Counting::kUndo:
      return metadata.add_refcounts(host, bytes, -1);
    case Counting::kDrop:
      return metadata.drop_reference(host, bytes, FreeReason::kSnapshot, Metadata::FreeOf::kData);
  }
  BB_ASSERT(false);
  return metadata.add_refcounts(host, bytes, 0);
}

struct Extent {
  uint64_t host = 0;
  uint64_t bytes = 0;
  // Shares its first and last cluster with others: each is counted for itself.
  bool compressed = false;
};

// nullopt: the entry refers to nothing, or to what cannot be.
std::optional<Extent> extent_of(const Geometry& g, const L2Entry& entry) {
  if ((entry.value & kEntryCompressed) != 0) {
    const CompressedExtent extent = parse_compressed(g, entry.value);
    return Extent{extent.offset, extent.bytes, true};
  }
  const uint64_t host = entry.value & kOffsetMask;
  if (host == 0 || g.in_cluster(host) != 0) return std::nullopt;
  return Extent{host, g.cluster_size, false};
}

// The entries [0, end) of a table; `done` is the first one that was not counted.
Task<Result<void>> count_some(Metadata& metadata, const Buffer& table, uint32_t end,
                              Counting counting, uint32_t& done) {
  const Geometry& g = metadata.geometry();
  Result<void> first;
  done = 0;
  Extent run;
  for (uint32_t i = 0; i <= end; ++i) {
    std::optional<Extent> next;
    if (i < end) next = extent_of(g, load_entry(g, table.data(), i));
    if (i < end && !next) continue;
    if (next && !next->compressed && !run.compressed && run.bytes > 0 &&
        next->host == run.host + run.bytes) {
      run.bytes += next->bytes;
      continue;
    }
    if (run.bytes > 0) {
      auto counted = co_await count_range(metadata, run.host, run.bytes, counting);
      if (!counted && first) first = counted;
      if (!counted && counting == Counting::kAdd) co_return counted;
    }
    done = i;
    run = next.value_or(Extent());
  }
  co_return first;
}

}  // namespace

Task<Result<std::vector<uint64_t>>> read_l1(Metadata& metadata, const Snapshot& snapshot) {
  ResidentTable table;
  BB_CO_TRY(co_await table.read(metadata.file(), snapshot.l1_offset, snapshot.l1_size));
  std::vector<uint64_t> entries = table.entries();
  for (uint64_t& entry : entries) entry &= kOffsetMask;
  co_return entries;
}

Task<Result<void>> read_l2_table(Metadata& metadata, uint64_t table, Buffer& into) {
  const Geometry& g = metadata.geometry();
  if (g.in_cluster(table) != 0) {
    co_return io_error(co_await metadata.report(
        Corruption{true, fmt::format("L2 table offset {:#x} unaligned", table), {}, {}}));
  }
  if (into.size() != g.cluster_size) into = Buffer(g.cluster_size);
  co_return co_await metadata.file().read(table, into.io());
}

Task<Result<void>> count_entries(Metadata& metadata, const Buffer& table, uint64_t table_offset,
                                 Counting counting) {
  const Geometry& g = metadata.geometry();
  const uint32_t entries = uint32_t{1} << g.l2_bits;
  if (counting == Counting::kAdd) {
    for (uint32_t i = 0; i < entries; ++i) {
      const uint64_t value = load_entry(g, table.data(), i).value;
      if ((value & kEntryCompressed) != 0 || g.in_cluster(value & kOffsetMask) == 0) continue;
      co_return io_error(co_await metadata.report_unaligned(value & kOffsetMask, table_offset, i));
    }
  }
  uint32_t done = 0;
  auto counted = co_await count_some(metadata, table, entries, counting, done);
  if (!counted && counting == Counting::kAdd) {
    uint32_t undone = 0;
    (void)co_await count_some(metadata, table, done, Counting::kUndo, undone);
  }
  co_return counted;
}

Task<Result<void>> count_l1(Metadata& metadata, std::span<const uint64_t> l1, Counting counting,
                            bool tables) {
  const Geometry& g = metadata.geometry();
  Result<void> first;
  Buffer table;
  for (std::size_t i = 0; i < l1.size(); ++i) {
    const uint64_t host = l1[i] & kOffsetMask;
    if (host == 0) continue;
    if (g.in_cluster(host) != 0 && counting != Counting::kAdd) continue;
    auto done = co_await read_l2_table(metadata, host, table);
    if (done) done = co_await count_entries(metadata, table, host, counting);
    if (done && tables && counting == Counting::kAdd) {
      done = co_await metadata.add_refcounts(host, g.cluster_size, 1);
      if (!done) (void)co_await count_entries(metadata, table, host, Counting::kUndo);
    }
    if (tables && counting != Counting::kAdd) {
      auto dropped =
          counting == Counting::kDrop
              ? co_await metadata.drop_reference(host, g.cluster_size, FreeReason::kSnapshot,
                                                 Metadata::FreeOf::kTable)
              : co_await metadata.add_refcounts(host, g.cluster_size, -1);
      if (done) done = dropped;
    }
    if (done) continue;
    if (first) first = done;
    if (counting == Counting::kAdd) {
      (void)co_await count_l1(metadata, l1.first(i), Counting::kUndo, tables);
      break;
    }
  }
  co_return first;
}

bool clear_copied(const Geometry& g, Buffer& table) {
  bool any = false;
  for (uint32_t i = 0; i < uint32_t{1} << g.l2_bits; ++i) {
    L2Entry entry = load_entry(g, table.data(), i);
    // Compressed entries have it in broken images only, and would then have it in two tables.
    if ((entry.value & kEntryCopied) == 0) continue;
    entry.value &= ~kEntryCopied;
    store_entry(g, table.data(), i, entry);
    any = true;
  }
  return any;
}

Task<void> AddedReferences::take_back() {
  if (metadata_.header_unsure()) co_return;
  while (!added_.empty()) {
    const Range range = added_.back();
    added_.pop_back();
    // What cannot be taken back leaks.
    (void)co_await metadata_.add_refcounts(range.host, range.bytes, -1);
  }
}

}  // namespace blockbed::qcow2
