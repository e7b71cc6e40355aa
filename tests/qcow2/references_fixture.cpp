#include "tests/qcow2/references_fixture.h"

#include <fmt/format.h>

#include <map>
#include <vector>

#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/refcount_array.h"
#include "block/formats/qcow2/snapshots.h"

namespace blockbed::qcow2::test {

namespace {

class ReferenceWalk {
 public:
  ReferenceWalk(Storage& file, const Header& header, bool on_leaks)
      : file_(file), h_(header), g_(header.geometry()), on_leaks_(on_leaks) {}

  Task<References> run() {
    refer(0, 1);
    co_await walk_l1(h_.l1_offset, h_.l1_size, true);
    if (h_.snapshot_count > 0) {
      auto table = co_await load_snapshots(file_, h_);
      if (!table) {
        fault("snapshot table: " + table.error().description);
        co_return result_;
      }
      refer(h_.snapshots_offset, table->bytes);
      for (const Snapshot& s : table->snapshots) co_await walk_l1(s.l1_offset, s.l1_size, false);
    }
    const auto table = co_await words(
        h_.refcount_table_offset, (uint64_t{h_.refcount_table_clusters} << g_.cluster_bits) / 8);
    refer(h_.refcount_table_offset, table.size() * 8);
    for (uint64_t block : table) {
      if (block != 0) refer(block, g_.cluster_size);
    }
    co_await compare(table);
    for (const auto& [cluster, copied] : copied_) {
      const bool leaked = on_leaks_ && !copied && stored_[cluster] > counts_[cluster];
      if (copied != (counts_[cluster] == 1) && !leaked) {
        fault(fmt::format("cluster {}: COPIED is {}, references {}", cluster, copied,
                          counts_[cluster]));
      }
    }
    co_return result_;
  }

 private:
  void fault(std::string text) {
    if (result_.fault.empty()) result_.fault = std::move(text);
  }
  void refer(uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    for (uint64_t c = offset >> g_.cluster_bits; c <= (offset + bytes - 1) >> g_.cluster_bits;
         ++c) {
      ++counts_[c];
    }
  }
  Task<std::vector<uint64_t>> words(uint64_t offset, uint64_t count) {
    std::vector<uint64_t> result(count);
    if (count > 0 && !co_await file_.read(offset, IoVector(result.data(), count * 8))) {
      fault("cannot read");
    }
    for (uint64_t& word : result) word = load_be64(&word);
    co_return result;
  }
  Task<void> walk_l1(uint64_t offset, uint64_t entries, bool active) {
    refer(offset, entries * 8);
    const auto l1 = co_await words(offset, entries);
    Buffer table(g_.cluster_size);
    for (uint64_t entry : l1) {
      const uint64_t host = entry & kOffsetMask;
      if (host == 0) continue;
      refer(host, g_.cluster_size);
      if (active) copied_.emplace_back(host >> g_.cluster_bits, (entry & kEntryCopied) != 0);
      if (!co_await file_.read(host, table.io())) fault("cannot read");
      for (uint32_t i = 0; i < uint32_t{1} << g_.l2_bits; ++i) {
        const uint64_t value = load_entry(g_, table.data(), i).value;
        if ((value & kEntryCompressed) != 0) {
          const CompressedExtent extent = parse_compressed(g_, value);
          refer(extent.offset, extent.bytes);
        } else if ((value & kOffsetMask) != 0) {
          refer(value & kOffsetMask, g_.cluster_size);
          if (active) {
            copied_.emplace_back((value & kOffsetMask) >> g_.cluster_bits,
                                 (value & kEntryCopied) != 0);
          }
        }
      }
    }
  }
  Task<void> compare(const std::vector<uint64_t>& table) {
    const uint64_t per_block = uint64_t{1} << g_.refcount_block_bits;
    Buffer block(g_.cluster_size);
    for (uint64_t b = 0; b < table.size(); ++b) {
      if (table[b] == 0) continue;
      if (!co_await file_.read(table[b], block.io())) fault("cannot read");
      for (uint64_t i = 0; i < per_block; ++i) {
        const uint64_t count = get_refcount(block.data(), i, g_.refcount_order);
        if (count != 0) stored_[b * per_block + i] = count;
      }
    }
    for (const auto& [cluster, count] : counts_) {
      if (stored_[cluster] < count) {
        fault(
            fmt::format("cluster {}: counted {}, references {}", cluster, stored_[cluster], count));
      }
    }
    for (const auto& [cluster, count] : stored_) {
      if (count > counts_[cluster]) ++result_.leaks;
    }
  }

  Storage& file_;
  const Header& h_;
  const Geometry g_;
  const bool on_leaks_;
  References result_;
  std::map<uint64_t, uint64_t> counts_;
  std::map<uint64_t, uint64_t> stored_;
  std::vector<std::pair<uint64_t, bool>> copied_;
};

}  // namespace

Task<References> walk_references(Storage& file, const Header& header, bool on_leaks) {
  ReferenceWalk walk(file, header, on_leaks);
  co_return co_await walk.run();
}

}  // namespace blockbed::qcow2::test
