// The snapshot table as a check sees it: entries that other code refuses are read, judged and, if
// asked to, made right.
//
// Contract: read_snapshot_table reads what the header names. Faults that make the table unusable
// (too many entries, too much extra data, too large) are an errno and a text unless `repair`; then
// what is too much is left out. `changed` says that the table must be written again, `shortened`
// that only the header's count of its entries must. encode() gives the bytes of a table in order;
// nothing that an entry holds is lost but what was left out. Bounds: kMaxSnapshots entries,
// kMaxSnapshotTableBytes in all. Units: bytes. Threading: engine thread only. Source: qcow2
// specification, section Snapshots; limits and repairs of QEMU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/qcow2/check.h"

namespace blockbed::qcow2 {

struct SnapshotEntry {
  uint64_t l1_offset = 0;
  uint32_t l1_size = 0;
  // The fixed part as it is in the file; lengths and places in it are those below.
  std::vector<std::byte> fixed;
  std::vector<std::byte> extra;
  std::string id;
  std::string name;
};

struct CheckedSnapshots {
  std::vector<SnapshotEntry> entries;
  // What the table takes in the file now.
  uint64_t bytes = 0;
  // Entries at its end are left out.
  bool shortened = false;
  bool changed = false;
};

Task<Result<CheckedSnapshots>> read_snapshot_table(Storage& file, const Header& header, bool repair,
                                                   CheckReport& report, const FindingSink& sink);
std::vector<std::byte> encode_snapshot_table(const std::vector<SnapshotEntry>& entries);

}  // namespace blockbed::qcow2
