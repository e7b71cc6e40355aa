// Image: what an image of version 2 cannot have, in the tables of its disk and its snapshots.
#include <map>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/snapshot_references.h"

namespace blockbed::qcow2 {

Task<Result<Image::AllTables>> Image::all_tables() {
  AllTables all;
  std::map<uint64_t, std::size_t> places;
  const auto add = [&all, &places](const std::vector<uint64_t>& l1) {
    for (const uint64_t entry : l1) {
      const uint64_t host = entry & kOffsetMask;
      if (host == 0) continue;
      const auto [place, first] = places.try_emplace(host, all.tables.size());
      if (first) all.tables.push_back(HeldTable{host, 0});
      ++all.tables[place->second].holders;
    }
  };
  add(metadata_.l1().entries());
  all.active = all.tables.size();
  for (const Snapshot& snapshot : snapshots()) {
    if (!check_l1(geometry(), snapshot)) co_return io_error(EINVAL);
    auto l1 = co_await read_l1(metadata_, snapshot);
    if (!l1) co_return io_error(l1.error());
    add(*l1);
  }
  co_return all;
}

Task<Result<bool>> Image::has_compressed() {
  const Geometry& g = geometry();
  MutexGuard lock = co_await metadata_.lock();
  BB_CO_TRY(co_await metadata_.sync());
  auto all = co_await all_tables();
  if (!all) co_return io_error(all.error());
  Buffer content;
  for (const HeldTable& table : all->tables) {
    BB_CO_TRY(co_await read_l2_table(metadata_, table.host, content));
    for (uint32_t i = 0; i < uint32_t{1} << g.l2_bits; ++i) {
      if ((load_entry(g, content.data(), i).value & kEntryCompressed) != 0) co_return true;
    }
  }
  co_return false;
}

Task<Result<void>> Image::expand_zeroes() {
  BB_ASSERT(!geometry().extended_l2 && !geometry().external_data);
  MutexGuard lock = co_await metadata_.lock();
  BB_ASSERT(metadata_.idle());
  BB_CO_TRY(co_await metadata_.sync());
  auto all = co_await all_tables();
  if (!all) co_return io_error(all.error());
  for (std::size_t i = 0; i < all->tables.size(); ++i) {
    // The disk has given up what it shared before a snapshot does: nothing becomes the disk's own
    // without a flag COPIED that says so.
    if (i == all->active) BB_CO_TRY(co_await metadata_.sync());
    BB_CO_TRY(co_await expand_table(all->tables[i]));
  }
  co_return co_await metadata_.sync();
}

Task<Result<void>> Image::expand_table(const HeldTable& table) {
  const Geometry& g = geometry();
  Buffer content;
  BB_CO_TRY(co_await read_l2_table(metadata_, table.host, content));
  for (uint32_t i = 0; i < uint32_t{1} << g.l2_bits; ++i) {
    const uint64_t value = load_entry(g, content.data(), i).value;
    if ((value & kEntryCompressed) != 0 || (value & kEntryZero) == 0) continue;
    const uint64_t host = value & kOffsetMask;
    if (g.in_cluster(host) != 0) {
      co_return io_error(co_await metadata_.report_unaligned(host, table.host, i));
    }
    BB_CO_TRY(co_await expand_entry(table, i, host));
  }
  co_return Result<void>();
}

Task<Result<void>> Image::expand_entry(const HeldTable& table, uint32_t index, uint64_t host) {
  const Geometry& g = geometry();
  // What other tables refer to as well may be data to them: it is left to them.
  bool shared = false;
  if (host != 0) {
    auto count = co_await metadata_.refcount(host >> g.cluster_bits);
    if (!count) co_return io_error(count.error());
    shared = *count != table.holders;
  }
  AddedReferences added(metadata_);
  auto change = [&]() -> Task<Result<void>> {
    uint64_t place = shared ? 0 : host;
    // Without a backing file nothing is as good as zeroes.
    if (place == 0 && backing_.attached()) {
      auto allocation = co_await metadata_.allocate(1, "data cluster");
      if (!allocation) co_return io_error(allocation.error());
      place = allocation->host;
      added.add(place, g.cluster_size);
      for (uint64_t i = 1; i < table.holders; ++i) {
        BB_CO_TRY(co_await metadata_.add_refcounts(place, g.cluster_size, 1));
        added.add(place, g.cluster_size);
      }
    }
    if (place != 0) {
      const Buffer zeroes = Buffer::zeroed(g.cluster_size);
      BB_CO_TRY(co_await write_data(place, zeroes.io()));
    }
    const uint64_t in_table = uint64_t{index} << g.cluster_bits;
    auto piece = co_await metadata_.piece_in_place(table.host, in_table);
    if (!piece) co_return io_error(piece.error());
    L2Entry entry;
    if (place != 0) entry.value = place | (table.holders == 1 ? kEntryCopied : 0);
    store_entry(g, (*piece)->data(), g.index_in_piece(in_table), entry);
    metadata_.piece_changed(**piece, place != 0);
    added.keep();
    co_return Result<void>();
  };
  if (auto done = co_await change(); !done) {
    co_await added.take_back();
    co_return done;
  }
  if (shared) {
    for (uint64_t i = 0; i < table.holders; ++i) {
      metadata_.free_later(host, g.cluster_size, FreeReason::kSnapshot);
    }
  }
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
