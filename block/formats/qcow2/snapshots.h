// The table of internal snapshots in an image.
//
// Contract: load_snapshots reads the table that the header names, whatever the length of its
// entries' extra data (none, 8, 16, 24 bytes or more); what is unknown of it is kept.
// serialise_snapshots writes every entry with all that is known today, as QEMU does. Entries are
// bounded by the header (count) and kMaxSnapshotTableBytes (all together). Units: bytes. Errors:
// texts of QEMU. Threading: engine thread only. Source: qcow2 specification, section Snapshots.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

// QEMU refuses entries with more extra data.
inline constexpr uint32_t kMaxSnapshotExtraBytes = 1024;
// What QEMU keeps of names that users choose; the table has room for 65535.
inline constexpr std::size_t kMaxSnapshotNameBytes = 255;
inline constexpr std::size_t kMaxSnapshotIdBytes = 127;

struct Snapshot {
  uint64_t l1_offset = 0;
  uint32_t l1_size = 0;
  std::string id;
  std::string name;
  uint32_t seconds = 0;
  uint32_t nanoseconds = 0;
  uint64_t vm_clock_ns = 0;
  uint64_t vm_state_size = 0;
  // Version 2 images may not say.
  std::optional<uint64_t> disk_size;
  std::optional<uint64_t> icount;
  std::vector<std::byte> unknown_extra;
};

struct SnapshotTable {
  std::vector<Snapshot> snapshots;
  uint64_t bytes = 0;
};

Task<Expected<SnapshotTable>> load_snapshots(Storage& file, const Header& header);
// `disk_size`: of the disks of snapshots that do not say.
std::vector<std::byte> serialise_snapshots(const std::vector<Snapshot>& snapshots,
                                           uint64_t disk_size);
// Where its L1 table is said to be can be one.
Expected<void> check_l1(const Geometry& geometry, const Snapshot& snapshot);
// One more than the largest number among the ids.
std::string next_snapshot_id(const std::vector<Snapshot>& snapshots);

}  // namespace blockbed::qcow2
