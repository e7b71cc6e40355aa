#include "block/formats/qcow2/check_snapshots.h"

#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/snapshots.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kFixedBytes = 40;
constexpr uint32_t kNeededExtraBytes = 16;
constexpr uint32_t kWrittenExtraBytes = 24;

void tell(const FindingSink& sink, const Header& header, bool repaired, std::string text) {
  CheckFinding finding;
  finding.fault = FaultClass::kSnapshotTable;
  finding.repaired = repaired;
  finding.offset = header.snapshots_offset;
  finding.text = std::move(text);
  sink(finding);
}

std::unexpected<Errno> unusable(CheckReport& report, int error, std::string text,
                                std::string hint = {}) {
  report.table_error = std::move(text);
  report.table_hint = std::move(hint);
  return io_error(error);
}

// Version 3 wants the sizes of VM state and disk in the extra data.
void complete(SnapshotEntry& entry, const Header& header) {
  const uint64_t vm_state = entry.extra.size() >= 8 ? load_be64(entry.extra.data())
                                                    : load_be<uint32_t>(entry.fixed.data() + 32);
  entry.extra.assign(kWrittenExtraBytes, std::byte{0});
  store_be64(entry.extra.data(), vm_state);
  store_be64(entry.extra.data() + 8, header.size);
  store_be64(entry.extra.data() + 16, UINT64_MAX);
}

}  // namespace

Task<Result<CheckedSnapshots>> read_snapshot_table(Storage& file, const Header& header, bool repair,
                                                   CheckReport& report, const FindingSink& sink) {
  CheckedSnapshots table;
  uint32_t count = header.snapshot_count;
  if (count == 0) co_return table;
  if (header.snapshots_offset % header.cluster_size() != 0 ||
      header.snapshots_offset > static_cast<uint64_t>(INT64_MAX)) {
    co_return unusable(report, EINVAL, "ERROR snapshot table offset invalid");
  }
  if (count > kMaxSnapshots) {
    const uint32_t overhanging = count - kMaxSnapshots;
    if (!repair) {
      co_return unusable(
          report, EFBIG, "ERROR snapshot table too large",
          fmt::format("You can force-remove all {} overhanging snapshots with qemu-img check -r "
                      "all",
                      overhanging));
    }
    tell(sink, header, true, fmt::format("Discarding {} overhanging snapshots", overhanging));
    report.corruptions_fixed += overhanging;
    count = kMaxSnapshots;
    table.shortened = true;
  }

  constexpr std::string_view kFailed = "ERROR failed to read the snapshot table: ";
  uint64_t position = header.snapshots_offset;
  for (uint32_t i = 0; i < count; ++i) {
    position = align_up(position, 8);
    if (position > static_cast<uint64_t>(INT64_MAX) - kMaxSnapshotTableBytes) {
      co_return unusable(
          report, EIO,
          fmt::format("{}Failed to read snapshot table: {}", kFailed, strerror_text(EIO)));
    }
    SnapshotEntry entry;
    entry.fixed.resize(kFixedBytes);
    if (auto read = co_await file.read(position, IoVector(entry.fixed.data(), kFixedBytes));
        !read) {
      co_return unusable(
          report, read.error().number(),
          fmt::format("{}Failed to read snapshot table: {}", kFailed, strerror_text(read.error())));
    }
    position += kFixedBytes;
    entry.l1_offset = load_be64(entry.fixed.data());
    entry.l1_size = load_be<uint32_t>(entry.fixed.data() + 8);
    const uint32_t id_bytes = load_be<uint16_t>(entry.fixed.data() + 12);
    const uint32_t name_bytes = load_be<uint16_t>(entry.fixed.data() + 14);
    const uint32_t extra_bytes = load_be<uint32_t>(entry.fixed.data() + 36);
    uint32_t kept = extra_bytes;
    if (extra_bytes > kMaxSnapshotExtraBytes) {
      if (!repair) {
        co_return unusable(
            report, EFBIG,
            fmt::format("{}Too much extra metadata in snapshot table entry {}", kFailed, i),
            "You can force-remove this extra metadata with qemu-img check -r all");
      }
      tell(sink, header, true,
           fmt::format("Discarding too much extra metadata in snapshot table entry {} ({} > {})", i,
                       extra_bytes, kMaxSnapshotExtraBytes));
      ++report.corruptions_fixed;
      kept = kMaxSnapshotExtraBytes;
      table.changed = true;
    }
    const uint64_t end = position + extra_bytes + id_bytes + name_bytes;
    if (end - header.snapshots_offset > kMaxSnapshotTableBytes) {
      const uint32_t overhanging = count - i;
      if (!repair) {
        co_return unusable(
            report, EFBIG, fmt::format("{}Snapshot table is too big", kFailed),
            fmt::format("You can force-remove all {} overhanging snapshots with qemu-img check -r "
                        "all",
                        overhanging));
      }
      tell(sink, header, true,
           fmt::format("Discarding {} overhanging snapshots (snapshot table is too big)",
                       overhanging));
      report.corruptions_fixed += overhanging;
      table.shortened = true;
      position -= kFixedBytes;
      break;
    }
    entry.extra.resize(kept);
    entry.id.resize(id_bytes);
    entry.name.resize(name_bytes);
    const auto piece = [&](uint64_t at, void* into,
                           std::size_t bytes) -> std::pair<uint64_t, IoVector> {
      return {at, IoVector(into, bytes)};
    };
    const std::pair<uint64_t, IoVector> pieces[] = {
        piece(position, entry.extra.data(), kept),
        piece(position + extra_bytes, entry.id.data(), id_bytes),
        piece(position + extra_bytes + id_bytes, entry.name.data(), name_bytes)};
    for (const auto& [at, into] : pieces) {
      if (into.size() == 0) continue;
      IoVector memory = into;
      if (auto read = co_await file.read(at, std::move(memory)); !read) {
        co_return unusable(report, read.error().number(),
                           fmt::format("{}Failed to read snapshot table: {}", kFailed,
                                       strerror_text(read.error())));
      }
    }
    position = end;
    table.entries.push_back(std::move(entry));
  }
  table.bytes = position - header.snapshots_offset;

  for (std::size_t i = 0; i < table.entries.size() && header.version >= 3; ++i) {
    if (table.entries[i].extra.size() >= kNeededExtraBytes) continue;
    tell(
        sink, header, repair,
        fmt::format("{} snapshot table entry {} is incomplete", repair ? "Repairing" : "ERROR", i));
    if (repair) {
      complete(table.entries[i], header);
      ++report.corruptions_fixed;
      table.changed = true;
    } else {
      ++report.corruptions;
    }
  }
  co_return table;
}

std::vector<std::byte> encode_snapshot_table(const std::vector<SnapshotEntry>& entries) {
  std::vector<std::byte> table;
  for (const SnapshotEntry& entry : entries) {
    table.resize(align_up(table.size(), 8));
    const std::size_t start = table.size();
    table.insert(table.end(), entry.fixed.begin(), entry.fixed.end());
    store_be<uint32_t>(table.data() + start + 36, static_cast<uint32_t>(entry.extra.size()));
    table.insert(table.end(), entry.extra.begin(), entry.extra.end());
    const auto* const id = reinterpret_cast<const std::byte*>(entry.id.data());
    table.insert(table.end(), id, id + entry.id.size());
    const auto* const name = reinterpret_cast<const std::byte*>(entry.name.data());
    table.insert(table.end(), name, name + entry.name.size());
  }
  return table;
}

}  // namespace blockbed::qcow2
