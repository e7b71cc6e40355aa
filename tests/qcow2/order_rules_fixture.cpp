// OrderJudge: the rules about what may be on the disk since a write began, and was not before.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tests/qcow2/order_judge_fixture.h"

namespace blockbed::qcow2::test {

using sim::kSector;

namespace {

bool is_of_bitmaps(Part part) {
  return part == Part::kBitmapDirectory || part == Part::kBitmapTable || part == Part::kBitmapBits;
}

// The same version of the header, before.
const OrderGraph::View* same_view(const OrderGraph& graph, const HeaderFields& header) {
  for (const OrderGraph::View& view : graph.views) {
    if (view.header.bytes == header.bytes) return &view;
  }
  return nullptr;
}

uint32_t references(const OrderGraph::View* view, uint64_t cluster) {
  return view != nullptr && cluster < view->references.size() ? view->references[cluster] : 0;
}

OrderRule counted_rule(Part part) {
  switch (part) {
    case Part::kRefcountBlock:
      return OrderRule::kBlockCounted;
    case Part::kL2:
      return OrderRule::kTableCounted;
    case Part::kData:
    case Part::kCompressed:
      return OrderRule::kDataCounted;
    default:
      return is_of_bitmaps(part) ? OrderRule::kDirectoryCounted : OrderRule::kSwitchCounted;
  }
}

std::set<uint64_t> all_believed(const OrderGraph& graph) {
  std::set<uint64_t> all;
  for (const OrderGraph::View& view : graph.views) {
    all.insert(view.believed.begin(), view.believed.end());
  }
  return all;
}

}  // namespace

void OrderJudge::judge_new_tables(const OrderGraph& before, bool header) {
  for (const auto& [cluster, table] : graph_.tables) {
    const OrderGraph::Table* known = before.table(cluster);
    if (known != nullptr && known->part == table.part) continue;
    OrderRule rule = OrderRule::kSwitchWritten;
    if (is_of_bitmaps(table.part)) rule = OrderRule::kDirectoryWritten;
    if (!header && table.part == Part::kL2) rule = OrderRule::kTableWritten;
    if (!header && table.part == Part::kRefcountBlock) rule = OrderRule::kBlockWritten;
    expect(rule, !image().disk.pending_in(cluster << g_.cluster_bits, g_.cluster_size),
           [&] { return fmt::format("cluster {} is not on the disk", cluster); });
  }
}

void OrderJudge::judge_references(const OrderGraph& before) {
  const HeaderFields& old = before.header();
  const bool becomes_dirty = graph_.header().dirty();
  for (const OrderGraph::View& view : graph_.views) {
    const HeaderFields& h = view.header;
    const OrderGraph::View* known = same_view(before, h);
    const bool switched = known == nullptr && !h.same_tables(old);
    for (uint64_t c = 0; c < view.references.size(); ++c) {
      const uint32_t most = view.references[c];
      if (most <= references(known, c)) continue;
      const Part part = graph_.part(c);
      const LeastCount least = least_count(image().disk, h, c, graph_.block_place(c));
      auto what = [&] {
        return fmt::format("cluster {} may be referred to {} times and counted {}{}", c, most,
                           least.count, h.dirty() ? " (dirty)" : "");
      };
      if (h.dirty() && !switched) {
        if (least.count < most) expect(OrderRule::kDirtyBeforeUncounted, true, what);
        continue;
      }
      OrderRule rule = counted_rule(part);
      if (switched) rule = OrderRule::kSwitchCounted;
      if (known == nullptr && old.dirty() && !h.dirty()) rule = OrderRule::kCountedBeforeClean;
      if (least.count < most) {
        if (becomes_dirty && !h.dirty()) {
          rule = OrderRule::kDirtyBeforeUncounted;
        } else if (least.unlinked && known != nullptr) {
          rule = OrderRule::kCountsLinked;
        } else if (known != nullptr && graph_.references_now(c) <= least.count) {
          // Others refer to it only as long as their removal is not on the disk.
          rule = OrderRule::kRemovedBeforeReuse;
        }
      } else if (known != nullptr) {
        ++asked_[static_cast<std::size_t>(OrderRule::kCountsLinked)];
        ++asked_[static_cast<std::size_t>(OrderRule::kRemovedBeforeReuse)];
      }
      expect(rule, least.count >= most, what);
    }
  }
}

// Each sector was written since nobody showed it, or is zeroes that nobody wrote to. A request may
// write to a cluster as soon as the one that allocated it has ended, long before that is on the
// disk: where the first left zeroes these are as good.
bool OrderJudge::on_disk(const OrderDisk& disk, uint64_t offset, uint64_t bytes,
                         uint64_t since) const {
  uint64_t first_effect = UINT64_MAX;
  auto written = [&](uint64_t sector) {
    bool any = false;
    for (const OrderDisk::Written& w : disk.written(sector)) {
      if (w.begun <= since) continue;
      any = true;
      first_effect = std::min(first_effect, w.effect);
    }
    return any;
  };
  std::vector<uint64_t> others;
  for (uint64_t s = offset / kSector; s * kSector < offset + bytes; ++s) {
    if (!written(s)) others.push_back(s);
  }
  return std::ranges::all_of(others, [&](uint64_t s) {
    const auto* pending = disk.pending(s);
    return disk.durable_zero(s) && (pending == nullptr || pending->front().begun > first_effect);
  });
}

// The beginning: how far it reaches only its reader knows, and others follow in the same sector.
bool OrderJudge::on_disk_compressed(uint64_t offset) const {
  constexpr uint64_t kBeginning = 8;
  std::byte newest[kBeginning];
  std::byte durable[kBeginning];
  image().disk.read_newest(offset, newest);
  image().disk.read_durable(offset, durable);
  return std::memcmp(newest, durable, kBeginning) == 0;
}

void OrderJudge::judge_content(const OrderGraph& before) {
  auto key = [](const OrderGraph::Content& c) { return std::pair(c.place, c.target); };
  const uint32_t parts_bits = g_.cluster_bits - g_.subcluster_bits;
  const OrderDisk& disk = g_.external_data ? files_.at(data_number_).disk : image().disk;
  auto known = before.content.begin();
  for (const OrderGraph::Content& content : graph_.content) {
    while (known != before.content.end() && key(*known) < key(content)) ++known;
    uint32_t parts = content.parts;
    if (known != before.content.end() && key(*known) == key(content)) parts &= ~known->parts;
    for (uint32_t p = 0; p < 32 && parts >> p != 0; ++p) {
      if ((parts >> p & 1) == 0) continue;
      auto what = [&] {
        return fmt::format("part {} of {}, from the entry at {}", p, content.target, content.place);
      };
      if (content.compressed) {
        expect(OrderRule::kDataWritten, on_disk_compressed(content.target), what);
        continue;
      }
      const uint64_t unit = (content.target >> g_.cluster_bits << parts_bits) + p;
      if (OrderGraph::has(before.shown, unit)) continue;
      const auto hidden = hidden_since_.find(unit);
      expect(OrderRule::kDataWritten,
             on_disk(disk, unit << g_.subcluster_bits, g_.subcluster_size(),
                     hidden == hidden_since_.end() ? 0 : hidden->second),
             what);
    }
  }
}

void OrderJudge::judge_copied(const OrderGraph& before) {
  // What a table says that is not on the disk is anything.
  if (!faults_.empty()) return;
  for (const OrderGraph::View& view : graph_.views) {
    const OrderGraph::View* known = same_view(before, view.header);
    for (uint64_t c = 0; c < view.copied.size(); ++c) {
      if (view.copied[c] == 0) continue;
      const bool old = known != nullptr && c < known->copied.size() && known->copied[c] != 0;
      if (old && view.references[c] <= references(known, c)) continue;
      expect(OrderRule::kCopied, view.references[c] == 1, [&] {
        return fmt::format("cluster {} may be referred to {} times", c, view.references[c]);
      });
    }
  }
}

void OrderJudge::judge_length(const OrderGraph& before) {
  for (const OrderGraph::View& view : graph_.views) {
    if (same_view(before, view.header) != nullptr) continue;
    const HeaderFields& h = view.header;
    const HeaderFields& old = before.header();
    auto what = [&] {
      return fmt::format("{} bytes, {} entries, references up to {}", h.size, h.l1_size,
                         view.guest_end);
    };
    expect(OrderRule::kLength, g_.l1_entries(h.size) <= h.l1_size, what);
    if (h.size < old.size && h.l1_offset == old.l1_offset) {
      expect(OrderRule::kLength, view.guest_end <= align_up(h.size, g_.cluster_size), what);
    }
  }
}

void OrderJudge::judge_version(const OrderGraph& before) {
  for (const OrderGraph::View& view : graph_.views) {
    if (view.header.version >= 3 || before.header().version < 3) continue;
    if (same_view(before, view.header) != nullptr) continue;
    expect(OrderRule::kNoZeroFlags, !view.zero_flags, [] { return "an entry may have one"; });
  }
}

void OrderJudge::judge_directory(const OrderGraph& before, const OrderDisk::Sector& old,
                                 uint64_t sector) {
  OrderDisk::Sector bytes;
  image().disk.read_newest(sector * kSector, bytes);
  for (uint64_t at = 0; at < kSector; at += 4) {
    if (std::memcmp(bytes.data() + at, old.data() + at, 4) == 0) continue;
    const uint64_t place = sector * kSector + at;
    expect(
        OrderRule::kNobodys,
        std::ranges::any_of(before.views, [&](const auto& v) { return v.flags.contains(place); }),
        [&] { return fmt::format("word of a bitmap directory at {}", place); });
  }
}

void OrderJudge::judge_bitmaps(const OrderGraph& before, uint64_t request) {
  std::set<uint64_t> directories;
  for (const OrderGraph::View& view : before.views) {
    if (view.header.bitmaps) directories.insert(std::get<2>(*view.header.bitmaps));
  }
  for (const OrderGraph::View& view : graph_.views) {
    if (!view.header.bitmaps || same_view(before, view.header) != nullptr) continue;
    expect(OrderRule::kNoMixture, directories_.contains(*view.header.bitmaps),
           [] { return "the header names a directory that never was"; });
    const uint64_t offset = std::get<2>(*view.header.bitmaps);
    if (directories.contains(offset)) continue;
    expect(OrderRule::kDirectoryInUse, view.believed.empty(),
           [&] { return fmt::format("the directory at {}", offset); });
  }
  const std::set<uint64_t> old = all_believed(before);
  for (const uint64_t flags : all_believed(graph_)) {
    if (old.contains(flags)) continue;
    bool all = true;
    for (const auto& [number, file] : files_) {
      for (const auto& [sector, versions] : file.disk.all_pending()) {
        const OrderGraph::Table* table =
            number == image_number_ ? graph_.table(sector * kSector >> g_.cluster_bits) : nullptr;
        all &= (table != nullptr && table->part == Part::kBitmapDirectory) ||
               std::ranges::all_of(versions, [&](const auto& v) { return v.request == request; });
      }
    }
    expect(OrderRule::kAllBeforeConsistent, all,
           [&] { return fmt::format("the flags at {}", flags); });
  }
}

// A cluster that nothing refers to any more may be written anew when that is on the disk. One that
// keeps its place may be as soon as the entry has changed in memory, which was after it was last
// written as it had been.
void OrderJudge::hide(const OrderGraph& before, uint64_t request) {
  if (before.shown == graph_.shown) return;
  const uint32_t parts_bits = g_.cluster_bits - g_.subcluster_bits;
  const OrderDisk& disk = image().disk;
  for (const OrderGraph::Content& content : before.content) {
    if (content.compressed) continue;
    const uint64_t cluster = content.target >> g_.cluster_bits;
    uint64_t since = operation_;
    if (g_.external_data || graph_.references_now(cluster) > 0) {
      const uint64_t sector = content.place / kSector;
      since = 0;
      if (const auto written = disk.written(sector); !written.empty()) since = written.back().begun;
      if (const auto* pending = disk.pending(sector)) {
        for (const OrderDisk::Version& version : *pending) {
          if (version.request != request) since = std::max(since, version.begun);
        }
      }
    }
    for (uint64_t p = 0; p < g_.subclusters; ++p) {
      const uint64_t unit = (cluster << parts_bits) + p;
      if ((content.parts >> p & 1) != 0 && OrderGraph::has(before.shown, unit) &&
          !OrderGraph::has(graph_.shown, unit)) {
        hidden_since_[unit] = since;
      }
    }
  }
}

}  // namespace blockbed::qcow2::test
