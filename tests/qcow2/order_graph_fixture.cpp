#include "tests/qcow2/order_graph_fixture.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/refcount_array.h"

namespace blockbed::qcow2::test {
namespace {

using sim::kSector;

constexpr uint64_t kHeaderRead = 4096;
// A fault of the test when there are more.
constexpr std::size_t kMostHeaders = 256;
// Beyond it lies no image of a test: what refers there is no table.
constexpr uint64_t kMostClusters = uint64_t{1} << 20;
constexpr uint32_t kBitmapsExtension = 0x23852875;
constexpr uint32_t kBitmapInUse = 1;

HeaderFields parse(std::vector<std::byte> bytes) {
  HeaderFields h;
  const std::byte* const p = bytes.data();
  h.version = load_be<uint32_t>(p + 4);
  h.cluster_bits = load_be<uint32_t>(p + 20);
  h.size = load_be64(p + 24);
  h.l1_size = load_be<uint32_t>(p + 36);
  h.l1_offset = load_be64(p + 40);
  h.refcount_table_offset = load_be64(p + 48);
  h.refcount_table_clusters = load_be<uint32_t>(p + 56);
  h.snapshot_count = load_be<uint32_t>(p + 60);
  h.snapshots_offset = load_be64(p + 64);
  uint64_t at = 72;
  bool bitmaps = false;
  if (h.version >= 3) {
    h.incompatible = load_be64(p + 72);
    bitmaps = (load_be64(p + 88) & 1) != 0;
    h.raw = (load_be64(p + 88) & 2) != 0;
    h.refcount_order = load_be<uint32_t>(p + 96);
    at = load_be<uint32_t>(p + 100);
  }
  while (bitmaps && at + 8 <= bytes.size()) {
    const uint32_t type = load_be<uint32_t>(p + at);
    const uint64_t length = load_be<uint32_t>(p + at + 4);
    if (type == 0 || at + 8 + length > bytes.size()) break;
    if (type == kBitmapsExtension && length >= 24) {
      h.bitmaps = HeaderFields::Bitmaps(load_be<uint32_t>(p + at + 8), load_be64(p + at + 16),
                                        load_be64(p + at + 24));
    }
    at += 8 + align_up(length, 8);
  }
  h.bytes = std::move(bytes);
  return h;
}

// Calls use(index, versions) for each entry of a table: the versions that it may have, the newest
// last. Entries of zeroes alone are left out.
template <typename Use>
void each_entry(const OrderDisk& image, uint64_t offset, uint64_t bytes, uint64_t entry_bytes,
                Use use) {
  static constexpr OrderDisk::Sector kZeroes{};
  std::vector<std::byte> durable(align_up(bytes, kSector));
  image.read_durable(offset, durable);
  std::vector<const std::byte*> versions;
  for (uint64_t start = 0; start < bytes; start += kSector) {
    const auto* pending = image.pending((offset + start) / kSector);
    if (pending == nullptr && std::memcmp(durable.data() + start, kZeroes.data(), kSector) == 0) {
      continue;
    }
    for (uint64_t in = 0; in < kSector && start + in < bytes; in += entry_bytes) {
      versions.assign(1, durable.data() + start + in);
      if (pending != nullptr) {
        for (const OrderDisk::Version& version : *pending) {
          if (!version.writes(in, in + entry_bytes)) continue;
          const std::byte* const entry = version.bytes->data() + in;
          std::erase_if(versions, [&](const std::byte* other) {
            return std::memcmp(other, entry, entry_bytes) == 0;
          });
          versions.push_back(entry);
        }
      }
      if (versions.size() == 1 && std::memcmp(versions[0], kZeroes.data(), entry_bytes) == 0) {
        continue;
      }
      use((start + in) / entry_bytes, versions);
    }
  }
}

class Reader {
 public:
  Reader(const OrderDisk& image, const Geometry& geometry) : image_(image), g_(geometry) {}

  OrderGraph run() {
    for (HeaderFields& header : headers()) {
      OrderGraph::View view;
      view.header = std::move(header);
      graph_.views.push_back(std::move(view));
    }
    graph_.newest = graph_.views.size() - 1;
    for (std::size_t i = 0; i < graph_.views.size(); ++i) {
      now_ = i == graph_.newest;
      walk(graph_.views[i]);
    }
    collect_content();
    return std::move(graph_);
  }

 private:
  struct Reference {
    uint64_t place;
    uint64_t cluster;
    Part part;
    bool newest;
    bool copied;
  };
  struct L2Table {
    bool zero_flags = false;
    std::vector<Reference> references;
    // The parts that reads see have bits in the second.
    std::vector<std::pair<OrderGraph::Content, uint32_t>> content;
  };
  using Counts = std::unordered_map<uint64_t, uint32_t>;

  // Every version of the header, the newest last.
  std::vector<HeaderFields> headers() const {
    const uint64_t bytes = std::min<uint64_t>(g_.cluster_size, kHeaderRead);
    std::vector<std::byte> durable(bytes);
    image_.read_durable(0, durable);
    std::vector<std::vector<std::byte>> all{durable};
    for (uint64_t s = 0; s < bytes / kSector; ++s) {
      const auto* pending = image_.pending(s);
      if (pending == nullptr) continue;
      std::vector<std::vector<std::byte>> more;
      for (const OrderDisk::Version& version : *pending) {
        for (std::vector<std::byte> header : all) {
          version.put_into(header.data() + s * kSector);
          std::erase(more, header);
          more.push_back(std::move(header));
        }
      }
      std::erase_if(all, [&](const auto& header) { return std::ranges::count(more, header) > 0; });
      more.insert(more.begin(), all.begin(), all.end());
      all = std::move(more);
      if (all.size() > kMostHeaders) std::abort();
    }
    std::vector<HeaderFields> parsed;
    for (auto& header : all) parsed.push_back(parse(std::move(header)));
    return parsed;
  }

  template <typename T>
  static T& grown(std::vector<T>& by_cluster, uint64_t cluster) {
    if (by_cluster.size() <= cluster) by_cluster.resize(cluster + 1);
    return by_cluster[cluster];
  }

  void refer(OrderGraph::View& view, uint64_t cluster, Part part, uint32_t times, bool now) {
    if (cluster >= kMostClusters) return;
    grown(view.references, cluster) += times;
    Part& known = grown(graph_.parts, cluster);
    known = std::max(known, part);
    if (now && now_) grown(graph_.now, cluster) += 1;
  }
  void refer_table(OrderGraph::View& view, uint64_t offset, uint64_t bytes, Part part, bool active,
                   bool now) {
    for (uint64_t c = offset >> g_.cluster_bits; c < g_.clusters(offset + bytes); ++c) {
      refer(view, c, part, 1, now);
      mark_table(c, part, active, now);
    }
  }
  OrderGraph::Table& mark_table(uint64_t cluster, Part part, bool active, bool now) {
    OrderGraph::Table& table = graph_.tables[cluster];
    table.part = part;
    table.active |= active;
    table.now |= now && now_;
    return table;
  }

  void walk(OrderGraph::View& view) {
    const HeaderFields& h = view.header;
    refer(view, 0, Part::kHeader, 1, true);
    walk_refcounts(view);
    walk_l1(view, h.l1_offset, h.l1_size, true);
    walk_snapshots(view);
    if (h.bitmaps) walk_bitmaps(view);
  }

  void walk_refcounts(OrderGraph::View& view) {
    const HeaderFields& h = view.header;
    const uint64_t bytes = uint64_t{h.refcount_table_clusters} << g_.cluster_bits;
    refer_table(view, h.refcount_table_offset, bytes, Part::kRefcountTable, false, true);
    const uint32_t block_bits = g_.cluster_bits + 3 - h.refcount_order;
    each_entry(image_, h.refcount_table_offset, bytes, 8, [&](uint64_t i, const auto& versions) {
      for (const std::byte* version : versions) {
        const uint64_t block = load_be64(version) & kRefcountTableOffsetMask;
        if (block == 0) continue;
        const bool now = version == versions.back();
        refer(view, block >> g_.cluster_bits, Part::kRefcountBlock, 1, now);
        OrderGraph::Table& table =
            mark_table(block >> g_.cluster_bits, Part::kRefcountBlock, false, now);
        table.first_counted = i << block_bits;
        table.order = h.refcount_order;
        table.place = h.refcount_table_offset + i * 8;
      }
    });
  }

  void walk_l1(OrderGraph::View& view, uint64_t offset, uint64_t entries, bool active) {
    refer_table(view, offset, entries * 8, Part::kL1, active, true);
    each_entry(image_, offset, entries * 8, 8, [&](uint64_t i, const auto& versions) {
      // Each of the tables that the entry may refer to, but one at a time.
      const bool one = versions.size() == 1;
      Counts most;
      for (const std::byte* version : versions) {
        const uint64_t entry = load_be64(version);
        const uint64_t table = (entry & kOffsetMask) >> g_.cluster_bits;
        if (table == 0 || table >= kMostClusters) continue;
        const bool now = version == versions.back();
        mark_table(table, Part::kL2, active, now);
        Counts counts;
        if (!one) ++counts[table];
        refer(view, table, Part::kL2, one ? 1 : 0, now);
        if (active && (entry & kEntryCopied) != 0) grown(view.copied, table) = 1;
        for (const Reference& r : l2_table(table).references) {
          if (r.cluster >= kMostClusters) continue;
          refer(view, r.cluster, r.part, one ? 1 : 0, now && r.newest);
          if (!one) ++counts[r.cluster];
          if (active && r.copied) grown(view.copied, r.cluster) = 1;
        }
        view.zero_flags |= l2_table(table).zero_flags;
        if (active) view.guest_end = std::max(view.guest_end, guest_end(i, table));
        for (const auto& [cluster, count] : counts) {
          most[cluster] = std::max(most[cluster], count);
        }
      }
      for (const auto& [cluster, count] : most) grown(view.references, cluster) += count;
    });
  }

  uint64_t guest_end(uint64_t l1_index, uint64_t table) {
    uint64_t end = 0;
    for (const auto& r : l2_table(table).references) {
      const uint64_t index = (r.place & g_.cluster_mask()) / g_.entry_bytes;
      end = std::max(end, ((l1_index << g_.l2_bits) + index + 1) << g_.cluster_bits);
    }
    return end;
  }

  const L2Table& l2_table(uint64_t cluster) {
    const auto [at, added] = l2_.try_emplace(cluster);
    if (!added) return at->second;
    L2Table& table = at->second;
    const uint64_t offset = cluster << g_.cluster_bits;
    each_entry(
        image_, offset, g_.cluster_size, g_.entry_bytes, [&](uint64_t i, const auto& versions) {
          for (const std::byte* version : versions) {
            add_entry(table, offset + i * g_.entry_bytes, version, version == versions.back());
          }
        });
    return table;
  }

  void add_entry(L2Table& table, uint64_t place, const std::byte* bytes, bool newest) {
    const uint64_t entry = load_be64(bytes);
    OrderGraph::Content content;
    content.place = place;
    if ((entry & kEntryCompressed) != 0) {
      const CompressedExtent extent = parse_compressed(g_, entry);
      for (uint64_t c = extent.offset >> g_.cluster_bits;
           c <= (extent.offset + extent.bytes - 1) >> g_.cluster_bits; ++c) {
        add_reference(table, {place, c, Part::kCompressed, newest, false});
      }
      content.target = extent.offset;
      content.parts = 1;
      content.compressed = true;
    } else {
      content.target = entry & kOffsetMask;
      table.zero_flags |= (entry & kEntryZero) != 0;
      if (content.target == 0 && !g_.external_data) return;
      if (!g_.external_data) {
        add_reference(table, {place, content.target >> g_.cluster_bits, Part::kData, newest,
                              (entry & kEntryCopied) != 0});
      }
      if (g_.extended_l2) {
        content.parts = static_cast<uint32_t>(load_be64(bytes + 8));
      } else {
        const bool shown = g_.external_data ? (entry & kEntryCopied) != 0 || content.target != 0
                                            : content.target != 0;
        content.parts = shown && (entry & kEntryZero) == 0 ? 1 : 0;
      }
    }
    if (content.parts != 0) table.content.emplace_back(content, newest ? content.parts : 0);
  }
  // A cluster once for each entry; versions of one entry may refer to the same.
  static void add_reference(L2Table& table, Reference reference) {
    for (auto at = table.references.rbegin();
         at != table.references.rend() && at->place == reference.place; ++at) {
      if (at->cluster != reference.cluster) continue;
      at->newest |= reference.newest;
      at->copied |= reference.copied;
      return;
    }
    table.references.push_back(reference);
  }

  void walk_snapshots(OrderGraph::View& view) {
    const HeaderFields& h = view.header;
    uint64_t at = h.snapshots_offset;
    for (uint32_t i = 0; i < h.snapshot_count; ++i) {
      std::byte entry[40];
      image_.read_newest(at, entry);
      walk_l1(view, load_be64(entry), load_be<uint32_t>(entry + 8), false);
      const uint64_t names =
          uint64_t{load_be<uint16_t>(entry + 12)} + load_be<uint16_t>(entry + 14);
      at += align_up(40 + load_be<uint32_t>(entry + 36) + names, 8);
    }
    if (h.snapshot_count > 0) {
      refer_table(view, h.snapshots_offset, at - h.snapshots_offset, Part::kSnapshotTable, false,
                  true);
    }
  }

  void walk_bitmaps(OrderGraph::View& view) {
    const auto& [count, bytes, offset] = *view.header.bitmaps;
    refer_table(view, offset, bytes, Part::kBitmapDirectory, false, true);
    uint64_t at = offset;
    for (uint32_t i = 0; i < count && at < offset + bytes; ++i) {
      std::byte entry[24];
      image_.read_newest(at, entry);
      const uint64_t table = load_be64(entry);
      const uint64_t table_bytes = uint64_t{load_be<uint32_t>(entry + 8)} * 8;
      refer_table(view, table, table_bytes, Part::kBitmapTable, false, true);
      each_entry(image_, table, table_bytes, 8, [&](uint64_t, const auto& versions) {
        for (const std::byte* version : versions) {
          const uint64_t bits = load_be64(version) & kOffsetMask;
          if (bits == 0) continue;
          refer_table(view, bits, g_.cluster_size, Part::kBitmapBits, false,
                      version == versions.back());
        }
      });
      view.flags.insert(at + 12);
      if (may_be_believed(at + 12)) view.believed.insert(at + 12);
      at += align_up(24 + load_be<uint32_t>(entry + 20) + load_be<uint16_t>(entry + 18), 8);
    }
  }

  bool may_be_believed(uint64_t flags_position) const {
    std::byte flags[4];
    image_.read_durable(flags_position, flags);
    bool believed = (load_be<uint32_t>(flags) & kBitmapInUse) == 0;
    if (const auto* pending = image_.pending(flags_position / kSector)) {
      for (const OrderDisk::Version& version : *pending) {
        const uint64_t in = flags_position % kSector;
        if (!version.writes(in, in + 4)) continue;
        const std::byte* const word = version.bytes->data() + in;
        believed |= (load_be<uint32_t>(word) & kBitmapInUse) == 0;
      }
    }
    return believed;
  }

  void collect_content() {
    const uint64_t parts_bits = g_.cluster_bits - g_.subcluster_bits;
    for (const auto& [cluster, table] : l2_) {
      const bool now = graph_.tables.at(cluster).now;
      for (const auto& [content, newest] : table.content) {
        graph_.content.push_back(content);
        const uint64_t first = content.target >> g_.cluster_bits << parts_bits;
        if (content.compressed || first >= kMostClusters) continue;
        for (uint64_t p = 0; p < g_.subclusters; ++p) {
          if ((content.parts >> p & 1) == 0) continue;
          grown(graph_.may_be_shown, first + p) = 1;
          if (now && (newest >> p & 1) != 0) grown(graph_.shown, first + p) = 1;
        }
      }
    }
    // Tables are in order, and so are their entries; not so the versions of one.
    std::vector<OrderGraph::Content>& all = graph_.content;
    for (std::size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      while (end < all.size() && all[end].place == all[begin].place) ++end;
      if (end - begin > 1) {
        std::ranges::sort(all.begin() + static_cast<std::ptrdiff_t>(begin),
                          all.begin() + static_cast<std::ptrdiff_t>(end), {},
                          &OrderGraph::Content::target);
      }
    }
    std::size_t kept = 0;
    for (const OrderGraph::Content& c : all) {
      if (kept > 0 && all[kept - 1].place == c.place && all[kept - 1].target == c.target) {
        all[kept - 1].parts |= c.parts;
      } else {
        all[kept++] = c;
      }
    }
    all.resize(kept);
  }

  const OrderDisk& image_;
  const Geometry& g_;
  OrderGraph graph_;
  bool now_ = false;
  std::map<uint64_t, L2Table> l2_;
};

}  // namespace

uint32_t OrderGraph::most_references(uint64_t cluster) const {
  uint32_t most = 0;
  for (const View& view : views) {
    if (cluster < view.references.size()) most = std::max(most, view.references[cluster]);
  }
  return most;
}

OrderGraph OrderGraph::read(const OrderDisk& image, const Geometry& geometry) {
  Reader reader(image, geometry);
  return reader.run();
}

HeaderFields newest_header(const OrderDisk& image) {
  std::vector<std::byte> bytes(kSector);
  image.read_newest(0, bytes);
  return parse(std::move(bytes));
}

LeastCount least_count(const OrderDisk& image, const HeaderFields& header, uint64_t cluster,
                       uint64_t referrer) {
  const uint32_t order = header.refcount_order;
  const uint32_t block_bits = header.cluster_bits + 3 - order;
  const uint64_t index = cluster >> block_bits;
  const uint64_t entries = (uint64_t{header.refcount_table_clusters} << header.cluster_bits) / 8;
  LeastCount least;
  least.unlinked = true;
  if (index >= entries) return least;
  const uint64_t place = header.refcount_table_offset + index * 8;
  const uint64_t sector = place / kSector;
  const uint64_t own = cluster << header.cluster_bits;
  std::vector<uint64_t> blocks;
  auto add = [&](const std::byte* bytes) {
    if (referrer / kSector == sector && load_be64(bytes + referrer % kSector) != own) return;
    blocks.push_back(load_be64(bytes + place % kSector) & kRefcountTableOffsetMask);
  };
  OrderDisk::Sector durable;
  image.read_durable(sector * kSector, durable);
  add(durable.data());
  if (const auto* pending = image.pending(sector)) {
    for (const auto& v : *pending) add(v.bytes->data());
  }

  bool first = true;
  auto take = [&](uint64_t count, bool unlinked) {
    if (first || count < least.count) least = LeastCount{count, unlinked};
    first = false;
  };
  const uint64_t bit = (cluster & ((uint64_t{1} << block_bits) - 1)) << order;
  for (const uint64_t block : blocks) {
    if (block == 0) {
      take(0, true);
      continue;
    }
    const uint64_t byte = block + bit / 8;
    const uint64_t in_sector = (bit % (kSector * 8)) >> order;
    OrderDisk::Sector bytes;
    image.read_durable(align_down(byte, kSector), bytes);
    take(get_refcount(bytes.data(), in_sector, order), false);
    const auto* pending = image.pending(byte / kSector);
    if (pending == nullptr) continue;
    for (const auto& v : *pending) {
      if (!v.writes(byte % kSector, byte % kSector + 1)) continue;
      take(get_refcount(v.bytes->data(), in_sector, order), false);
    }
  }
  return least;
}

}  // namespace blockbed::qcow2::test
