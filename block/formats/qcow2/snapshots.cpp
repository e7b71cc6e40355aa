#include "block/formats/qcow2/snapshots.h"

#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kEntryHeaderBytes = 40;
constexpr uint32_t kKnownExtraBytes = 24;

}  // namespace

Task<Expected<SnapshotTable>> load_snapshots(Storage& file, const Header& header) {
  SnapshotTable table;
  uint64_t position = header.snapshots_offset;
  std::vector<std::byte> rest;
  for (uint32_t i = 0; i < header.snapshot_count; ++i) {
    position = align_up(position, 8);
    std::byte entry[kEntryHeaderBytes];
    if (!co_await file.read(position, IoVector(entry, sizeof(entry)))) {
      co_return fail("Failed to read snapshot table");
    }
    position += kEntryHeaderBytes;
    Snapshot snapshot;
    snapshot.l1_offset = load_be64(entry);
    snapshot.l1_size = load_be<uint32_t>(entry + 8);
    const uint32_t id_bytes = load_be<uint16_t>(entry + 12);
    const uint32_t name_bytes = load_be<uint16_t>(entry + 14);
    snapshot.seconds = load_be<uint32_t>(entry + 16);
    snapshot.nanoseconds = load_be<uint32_t>(entry + 20);
    snapshot.vm_clock_ns = load_be64(entry + 24);
    snapshot.vm_state_size = load_be<uint32_t>(entry + 32);
    const uint32_t extra_bytes = load_be<uint32_t>(entry + 36);
    if (extra_bytes > kMaxSnapshotExtraBytes) {
      co_return fail(fmt::format("Too much extra metadata in snapshot table entry {}", i));
    }
    rest.resize(extra_bytes + id_bytes + name_bytes);
    if (!rest.empty()) {
      if (!co_await file.read(position, IoVector(rest.data(), rest.size()))) {
        co_return fail("Failed to read snapshot table");
      }
    }
    position += rest.size();
    if (position - header.snapshots_offset > kMaxSnapshotTableBytes) {
      co_return fail("Snapshot table is too big");
    }
    if (extra_bytes >= 8) snapshot.vm_state_size = load_be64(rest.data());
    if (extra_bytes >= 16) snapshot.disk_size = load_be64(rest.data() + 8);
    if (extra_bytes >= 24) snapshot.icount = load_be64(rest.data() + 16);
    if (extra_bytes > kKnownExtraBytes) {
      snapshot.unknown_extra.assign(rest.begin() + kKnownExtraBytes, rest.begin() + extra_bytes);
    }
    const char* const text = reinterpret_cast<const char*>(rest.data()) + extra_bytes;
    snapshot.id.assign(text, id_bytes);
    snapshot.name.assign(text + id_bytes, name_bytes);
    table.snapshots.push_back(std::move(snapshot));
  }
  table.bytes = position - header.snapshots_offset;
  co_return table;
}

}  // namespace blockbed::qcow2
