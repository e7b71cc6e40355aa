// Image and Metadata: tables read again, counts of another width.
#include <fmt/format.h>

#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2 {

Task<Expected<void>> Image::reload() {
  // Also when it fails: whoever writes next has the tables read again.
  writing_ = false;
  Expected<void> done;
  {
    MutexGuard lock = co_await metadata_.lock();
    if (auto synced = co_await metadata_.sync(); !synced) {
      co_return fail(strerror_text(synced.error()));
    }
    done = co_await metadata_.reload(metadata_.header());
  }
  if (!done) co_return done;
  if (auto begun = co_await begin_writing(); !begun) co_return fail(strerror_text(begun.error()));
  co_return Expected<void>();
}

Task<Expected<void>> Image::change_refcount_width(uint32_t order) {
  writing_ = false;
  {
    MutexGuard lock = co_await metadata_.lock();
    BB_CO_TRY(co_await metadata_.change_refcount_width(order));
  }
  co_return co_await reload();
}

// --- counts of another width

Task<Expected<void>> Metadata::change_refcount_width(uint32_t order) {
  const auto failed = [](Errno error) {
    return fail(
        fmt::format("Failed to change the width of reference counts: {}", strerror_text(error)));
  };
  if (auto synced = co_await sync(); !synced) co_return failed(synced.error());

  const uint64_t max = order == 6 ? UINT64_MAX : (uint64_t{1} << (uint64_t{1} << order)) - 1;
  const uint64_t old_per_block = uint64_t{1} << g_.refcount_block_bits;
  const uint64_t per_block = (g_.cluster_size * 8) >> order;
  // What is in use, and up to where; which blocks of the new width that takes.
  uint64_t used_end = 0;
  std::vector<bool> needed;
  for (uint64_t block = 0; block < refcount_table_.size(); ++block) {
    if (refcount_table_[block] == 0) continue;
    for (uint64_t i = 0; i < old_per_block; ++i) {
      const uint64_t cluster = block * old_per_block + i;
      auto count = co_await refcount(cluster);
      if (!count) co_return failed(count.error());
      if (*count == 0) continue;
      if (*count > max) {
        co_return fail(
            fmt::format("Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} "
                        "has a refcount of {}",
                        uint64_t{1} << order, cluster << g_.cluster_bits, *count));
      }
      used_end = cluster + 1;
      if (needed.size() <= cluster / per_block) needed.resize(cluster / per_block + 1);
      needed[cluster / per_block] = true;
    }
  }
  // The new blocks and their table lie behind all that, and count themselves.
  uint64_t blocks = 0;
  uint64_t table_clusters = 0;
  for (uint64_t total = 0;;) {
    std::vector<bool> with_own = needed;
    const uint64_t last = (used_end + std::max<uint64_t>(total, 1) - 1) / per_block;
    if (with_own.size() <= last) with_own.resize(last + 1);
    for (uint64_t block = used_end / per_block; block <= last; ++block) with_own[block] = true;
    blocks = static_cast<uint64_t>(std::ranges::count(with_own, true));
    table_clusters = divide_up(with_own.size() * 8, g_.cluster_size);
    if (blocks + table_clusters <= total) {
      needed = std::move(with_own);
      break;
    }
    total = blocks + table_clusters;
  }
  if (table_clusters << g_.cluster_bits > kMaxRefcountTableBytes) co_return failed(Errno(EFBIG));
  const uint64_t own_end = used_end + blocks + table_clusters;
  if (own_end << g_.cluster_bits > max_host_) co_return failed(Errno(EFBIG));

  // Also a write that fails leaves something there.
  file_end_ = std::max(file_end_, own_end << g_.cluster_bits);
  std::vector<uint64_t> table(table_clusters * g_.cluster_size / 8);
  uint64_t at = used_end;
  Buffer content(g_.cluster_size);
  for (uint64_t block = 0; block < needed.size(); ++block) {
    if (!needed[block]) continue;
    std::memset(content.data(), 0, content.size());
    for (uint64_t i = 0; i < per_block; ++i) {
      const uint64_t cluster = block * per_block + i;
      uint64_t value = cluster >= used_end && cluster < own_end ? 1 : 0;
      if (cluster < used_end) {
        auto count = co_await refcount(cluster);
        if (!count) co_return failed(count.error());
        value = *count;
      }
      if (value != 0) set_refcount(content.data(), i, order, value);
    }
    table[block] = at << g_.cluster_bits;
    if (auto written = co_await file_.write(table[block], content.io()); !written) {
      co_return failed(written.error());
    }
    ++at;
  }
  const uint64_t table_host = at << g_.cluster_bits;
  const Buffer bytes = ResidentTable::to_file(table, table_clusters << g_.cluster_bits);
  auto done = co_await file_.write(table_host, bytes.io());
  if (done) done = co_await barrier();
  if (!done) co_return failed(done.error());

  // Place, size and width are in one sector.
  const std::vector<uint64_t> old_table = refcount_table_.entries();
  const uint64_t old_host = header_.refcount_table_offset;
  const uint64_t old_clusters = header_.refcount_table_clusters;
  Header next = header_;
  next.refcount_table_offset = table_host;
  next.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  next.refcount_order = order;
  done = co_await switch_header(next);
  if (!done) co_return failed(done.error());
  BB_CO_TRY(co_await reload(std::move(next)));
  if (done = co_await prepare_for_writing(); !done) co_return failed(done.error());

  // What counted before is in no use now.
  std::vector<uint64_t> old_places;
  for (uint64_t entry : old_table) {
    if ((entry & kRefcountTableOffsetMask) != 0) {
      old_places.push_back(entry & kRefcountTableOffsetMask);
    }
  }
  for (uint64_t i = 0; i < old_clusters; ++i) old_places.push_back(old_host + i * g_.cluster_size);
  for (uint64_t host : old_places) {
    if (done = co_await add_refcounts(host, g_.cluster_size, -1); !done) {
      co_return failed(done.error());
    }
  }
  done = co_await sync();
  if (!done) co_return failed(done.error());
  co_return Expected<void>();
}

}  // namespace blockbed::qcow2
