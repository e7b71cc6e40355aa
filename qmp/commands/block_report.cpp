#include "qmp/commands/block_report.h"

#include <ranges>

#include "block/filters/copy_before_write.h"
#include "block/filters/mirror_top.h"
#include "block/filters/quorum.h"
#include "block/filters/snapshot_access.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/filename.h"
#include "block/protocols/file.h"
#include "block/runtime/env.h"

namespace blockbed {

namespace {

schema::BlockdevDetectZeroesOptions detect_zeroes_of(DetectZeroes mode) {
  switch (mode) {
    case DetectZeroes::kOff:
      return schema::BlockdevDetectZeroesOptions::kOff;
    case DetectZeroes::kOn:
      return schema::BlockdevDetectZeroesOptions::kOn;
    case DetectZeroes::kUnmap:
      return schema::BlockdevDetectZeroesOptions::kUnmap;
  }
  return schema::BlockdevDetectZeroesOptions::kOff;
}

bool holds_data(ChildRoles roles) {
  return roles.has(ChildRole::kData) || roles.has(ChildRole::kMetadata) ||
         roles.has(ChildRole::kFiltered);
}

schema::BlockDeviceTimedStats timed_stats_of(Accounting::Interval& interval, int64_t now) {
  const auto latencies = [&](AccountedKind kind) {
    return interval.kinds[static_cast<std::size_t>(kind)].report(now);
  };
  const TimedStatistics::Latencies read = latencies(AccountedKind::kRead);
  const TimedStatistics::Latencies write = latencies(AccountedKind::kWrite);
  const TimedStatistics::Latencies flush = latencies(AccountedKind::kFlush);
  schema::BlockDeviceTimedStats stats;
  stats.interval_length = interval.seconds;
  stats.min_rd_latency_ns = read.shortest;
  stats.max_rd_latency_ns = read.longest;
  stats.avg_rd_latency_ns = read.average;
  stats.min_wr_latency_ns = write.shortest;
  stats.max_wr_latency_ns = write.longest;
  stats.avg_wr_latency_ns = write.average;
  stats.min_flush_latency_ns = flush.shortest;
  stats.max_flush_latency_ns = flush.longest;
  stats.avg_flush_latency_ns = flush.average;
  stats.avg_rd_queue_depth = read.queue_depth;
  stats.avg_wr_queue_depth = write.queue_depth;
  return stats;
}

void report_throttling(const ThrottleGroup& group, schema::BlockDeviceInfo& info) {
  using L = ThrottleLimits;
  const ThrottleLimits& limits = group.limits();
  info.group = group.name();
  if (limits.iops_size != 0) info.iops_size = static_cast<int64_t>(limits.iops_size);
  struct Field {
    L::Bucket bucket;
    int64_t& rate;
    std::optional<int64_t>& maximum;
    std::optional<int64_t>& length;
  };
  const Field fields[] = {
      {L::kBpsTotal, info.bps, info.bps_max, info.bps_max_length},
      {L::kBpsRead, info.bps_rd, info.bps_rd_max, info.bps_rd_max_length},
      {L::kBpsWrite, info.bps_wr, info.bps_wr_max, info.bps_wr_max_length},
      {L::kIopsTotal, info.iops, info.iops_max, info.iops_max_length},
      {L::kIopsRead, info.iops_rd, info.iops_rd_max, info.iops_rd_max_length},
      {L::kIopsWrite, info.iops_wr, info.iops_wr_max, info.iops_wr_max_length},
  };
  for (const Field& field : fields) {
    const ThrottleBucket& bucket = limits.buckets[field.bucket];
    field.rate = bucket.average;
    if (bucket.maximum == 0) continue;
    field.maximum = bucket.maximum;
    field.length = static_cast<int64_t>(bucket.burst_length);
  }
}

}  // namespace

std::optional<DriverInfo> driver_facts(const Node& node) {
  const Driver& driver = node.driver();
  if (driver.is_filter()) {
    const Edge* below = node.filtered_edge();
    return below == nullptr ? std::nullopt : driver_facts(*below->node());
  }
  if (driver.name() == "raw") {
    const Edge* storage = node.storage_edge();
    return storage == nullptr ? std::nullopt : driver_facts(*storage->node());
  }
  // An instant has no storage of its own, and copies have no storage in common.
  if (driver.name() == SnapshotAccess::kName || driver.name() == Quorum::kName) return std::nullopt;
  // Of the protocols only those on the host's own files have an answer.
  if (driver.is_protocol() && dynamic_cast<const FileDriver*>(&driver) == nullptr)
    return std::nullopt;
  return driver.info();
}

Task<std::optional<uint64_t>> allocated_bytes(Node& node) {
  auto own = co_await node.driver().allocated_size();
  if (!own) co_return std::nullopt;
  if (*own) co_return **own;
  // What else hangs on a filter is not the disk's.
  if (const Edge* filtered = node.filtered_edge()) {
    co_return co_await allocated_bytes(*filtered->node());
  }
  uint64_t sum = 0;
  bool asked = false;
  for (const auto& edge : node.children()) {
    if (!holds_data(edge->roles())) continue;
    auto below = co_await allocated_bytes(*edge->node());
    if (!below) co_return std::nullopt;
    sum += *below;
    asked = true;
  }
  if (!asked) co_return std::nullopt;
  co_return sum;
}

schema::SnapshotInfo snapshot_info(const InternalSnapshot& snapshot) {
  constexpr uint64_t kSecond = 1'000'000'000;
  schema::SnapshotInfo info;
  info.id = snapshot.id;
  info.name = snapshot.name;
  info.vm_state_size = static_cast<int64_t>(snapshot.vm_state_size);
  info.date_sec = snapshot.seconds;
  info.date_nsec = snapshot.nanoseconds;
  info.vm_clock_sec = static_cast<int64_t>(snapshot.vm_clock_ns / kSecond);
  info.vm_clock_nsec = static_cast<int64_t>(snapshot.vm_clock_ns % kSecond);
  if (snapshot.icount) info.icount = static_cast<int64_t>(*snapshot.icount);
  return info;
}

Task<schema::ImageInfo> image_info(Node& node) {
  schema::ImageInfo info;
  Driver& driver = node.driver();
  info.filename = node.filename();
  info.format = driver.name();
  (void)co_await node.refresh_length();
  // QEMU counts in sectors: a length in between is reported as the next one.
  info.virtual_size = static_cast<int64_t>((node.length() + 511) / 512 * 512);
  if (auto allocated = co_await allocated_bytes(node))
    info.actual_size = static_cast<int64_t>(*allocated);
  if (driver.encrypted()) info.encrypted = true;
  if (const auto facts = driver_facts(node)) {
    if (facts->cluster_size != 0) info.cluster_size = static_cast<int64_t>(facts->cluster_size);
    info.dirty_flag = facts->dirty;
  }
  if (const std::string stored = driver.backing_file_name(); !stored.empty()) {
    info.backing_filename = stored;
    if (auto full = resolve_backing_name(node, stored)) info.full_backing_filename = *full;
    if (std::string format = driver.backing_format(); !format.empty())
      info.backing_filename_format = std::move(format);
  }
  info.format_specific = driver.specific_info();
  if (auto snapshots = list_internal_snapshots(node); snapshots && !snapshots->empty()) {
    info.snapshots.emplace();
    for (const InternalSnapshot& s : *snapshots) info.snapshots->push_back(snapshot_info(s));
  }
  co_return info;
}

namespace {

schema::BlockDirtyInfo dirty_info(const DirtyBitmap& bitmap) {
  schema::BlockDirtyInfo info;
  if (bitmap.has_name()) info.name = bitmap.name();
  info.count = static_cast<int64_t>(bitmap.count());
  info.granularity = static_cast<uint32_t>(bitmap.granularity());
  info.recording = bitmap.recording();
  info.busy = bitmap.busy();
  info.persistent = bitmap.persistent();
  if (bitmap.inconsistent()) info.inconsistent = true;
  return info;
}

// What a filter above the node has still to save, or a mirror to copy, is shown as a bitmap of the
// node.
schema::BlockDirtyInfo copy_info(BlockCopy& engine) {
  schema::BlockDirtyInfo info;
  info.granularity = static_cast<uint32_t>(engine.cluster_size());
  info.count = static_cast<int64_t>(engine.bitmap().count() * engine.cluster_size());
  return info;
}

schema::BlockDirtyInfo mirror_info(const MirrorCopy& copy) {
  schema::BlockDirtyInfo info;
  info.granularity = static_cast<uint32_t>(copy.settings().granularity);
  info.count = static_cast<int64_t>(copy.marked());
  // A write to both sides leaves nothing to copy.
  info.recording = !copy.writes_to_both();
  return info;
}

std::vector<schema::BlockDirtyInfo> dirty_infos(Node& node) {
  std::vector<schema::BlockDirtyInfo> infos;
  for (const Edge* edge : node.parents() | std::views::reverse) {
    Node* const above = edge->parent().as_node();
    if (above == nullptr || !above->is_open() || above->filtered_edge() != edge) continue;
    if (auto* filter = dynamic_cast<CopyBeforeWrite*>(&above->driver())) {
      infos.push_back(copy_info(filter->engine()));
    } else if (auto* top = dynamic_cast<MirrorTop*>(&above->driver())) {
      if (top->copy() != nullptr) infos.push_back(mirror_info(*top->copy()));
    }
  }
  for (const auto& bitmap : node.dirty_bitmaps()) infos.push_back(dirty_info(*bitmap));
  return infos;
}

}  // namespace

Task<schema::BlockDeviceInfo> block_device_info(Node& node, const Backend* backend, bool flat) {
  schema::BlockDeviceInfo info;
  info.file = node.filename();
  info.node_name = node.name();
  info.ro = node.flags().read_only;
  info.drv = node.driver().name();
  info.encrypted = node.driver().encrypted();
  info.cache.writeback = backend == nullptr || backend->write_cache();
  info.cache.direct = node.flags().cache_direct;
  info.cache.no_flush = node.flags().cache_no_flush;
  if (backend != nullptr && backend->throttle_group() != nullptr) {
    report_throttling(*backend->throttle_group(), info);
  }
  if (Node* backing = node.backing_node()) info.backing_file = backing->filename();
  info.write_threshold = static_cast<int64_t>(node.write_threshold());
  info.detect_zeroes = detect_zeroes_of(node.flags().detect_zeroes);
  if (auto bitmaps = dirty_infos(node); !bitmaps.empty()) info.dirty_bitmaps = std::move(bitmaps);

  std::vector<schema::ImageInfo> images;
  for (Node* layer = &node; layer != nullptr; layer = layer->filter_or_cow_node()) {
    if (backend != nullptr) layer = layer->skip_hidden();
    images.push_back(co_await image_info(*layer));
    if (flat) break;
  }
  info.backing_file_depth = static_cast<int64_t>(images.size()) - 1;
  for (std::size_t i = images.size(); i-- > 1;) {
    images[i - 1].backing_image = std::move(images[i]);
    images.pop_back();
  }
  info.image = std::move(images.front());
  co_return info;
}

bool is_visible(const Backend& backend, const DeviceDirectory& devices) {
  return !backend.name().empty() || devices.device_of(backend).has_value();
}

Task<schema::BlockInfo> block_info(const Backend& backend, const DeviceDirectory& devices) {
  schema::BlockInfo info;
  const auto face = devices.device_of(backend);
  info.device = backend.name();
  info.type = "unknown";
  info.removable = !face || face->removable;
  info.locked = face && face->locked;
  if (face) info.qdev = face->qdev;
  if (face && face->has_tray) info.tray_open = face->tray_open;
  if (backend.keeps_io_status()) info.io_status = to_schema(backend.io_status);
  if (Node* node = backend.node(); node != nullptr && node->is_open()) {
    info.inserted = co_await block_device_info(*node->skip_hidden(), &backend, false);
  }
  co_return info;
}

namespace {

// Where the node's data is: in its primary child, or in the only one that has data. Of several
// equal ones, as a quorum's, in none.
const Edge* data_child(const Node& node) {
  const Edge* found = nullptr;
  std::size_t count = 0;
  for (const auto& edge : node.children()) {
    if (!edge->roles().has(ChildRole::kData) && !edge->roles().has(ChildRole::kFiltered)) continue;
    if (edge->roles().has(ChildRole::kPrimary)) return edge.get();
    found = edge.get();
    ++count;
  }
  return count == 1 ? found : nullptr;
}

}  // namespace

schema::BlockStats node_stats(Node& shown, bool from_root) {
  Node& node = from_root ? *shown.skip_hidden() : shown;
  schema::BlockStats stats;
  stats.node_name = node.name();
  stats.stats.wr_highest_offset = static_cast<int64_t>(node.highest_written_offset());
  if (const auto* driver = dynamic_cast<const FileDriver*>(&node.driver())) {
    schema::BlockStatsSpecific specific;
    specific.driver = driver->name() == "file" ? schema::BlockdevDriver::kFile
                                               : schema::BlockdevDriver::kHostDevice;
    schema::BlockStatsSpecificFile file;
    file.discard_nb_ok = driver->discard_statistics().ok;
    file.discard_nb_failed = driver->discard_statistics().failed;
    file.discard_bytes_ok = driver->discard_statistics().bytes_ok;
    specific.u = file;
    stats.driver_specific = std::move(specific);
  }
  if (const Edge* parent = data_child(node); parent != nullptr) {
    stats.parent = node_stats(*parent->node(), from_root);
  }
  if (Node* below = node.filter_or_cow_node(); from_root && below != nullptr) {
    stats.backing = node_stats(*below, from_root);
  }
  return stats;
}

schema::BlockStats root_stats(Backend& backend, const DeviceDirectory& devices) {
  schema::BlockStats stats;
  if (Node* node = backend.node()) stats = node_stats(*node, true);
  stats.device = backend.name();
  if (auto face = devices.device_of(backend)) stats.qdev = face->qdev;

  Accounting& accounting = backend.accounting();
  schema::BlockDeviceStats& out = stats.stats;
  const auto& read = accounting.of(AccountedKind::kRead);
  const auto& write = accounting.of(AccountedKind::kWrite);
  const auto& flush = accounting.of(AccountedKind::kFlush);
  const auto& unmap = accounting.of(AccountedKind::kUnmap);
  const auto number = [](uint64_t value) { return static_cast<int64_t>(value); };
  out.rd_bytes = number(read.bytes);
  out.wr_bytes = number(write.bytes);
  out.unmap_bytes = number(unmap.bytes);
  out.rd_operations = number(read.operations);
  out.wr_operations = number(write.operations);
  out.flush_operations = number(flush.operations);
  out.unmap_operations = number(unmap.operations);
  out.failed_rd_operations = number(read.failed);
  out.failed_wr_operations = number(write.failed);
  out.failed_flush_operations = number(flush.failed);
  out.failed_unmap_operations = number(unmap.failed);
  out.invalid_rd_operations = number(read.invalid);
  out.invalid_wr_operations = number(write.invalid);
  out.invalid_flush_operations = number(flush.invalid);
  out.invalid_unmap_operations = number(unmap.invalid);
  out.rd_merged = number(read.merged);
  out.wr_merged = number(write.merged);
  out.unmap_merged = number(unmap.merged);
  out.rd_total_time_ns = number(read.total_time_ns);
  out.wr_total_time_ns = number(write.total_time_ns);
  out.flush_total_time_ns = number(flush.total_time_ns);
  out.unmap_total_time_ns = number(unmap.total_time_ns);
  out.account_invalid = accounting.account_invalid;
  out.account_failed = accounting.account_failed;
  if (const int64_t idle = accounting.idle_ns(); idle >= 0) out.idle_time_ns = idle;
  for (Accounting::Interval& interval : accounting.intervals()) {
    out.timed_stats.push_back(timed_stats_of(interval, accounting.now()));
  }
  return stats;
}

}  // namespace blockbed
