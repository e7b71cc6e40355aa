// ResidentTable: a table that is in memory as a whole: the L1 table, the refcount table.
//
// Contract: entries are in host byte order; set() marks the sector of an entry dirty; write_dirty()
// writes dirty sectors only, so that each write is whole at the granularity at which disks are
// whole. place() comes before a set() that must be kept: a sector of nothing but zeroes may be a
// hole of the file, and is written as it is, which a full disk refuses (ENOSPC). Bounds: the
// header's checks bound the size (kMaxL1Bytes, kMaxRefcountTableBytes). Units: bytes; indices of
// 8-byte entries. Errors: errno. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

class ResidentTable {
 public:
  static constexpr uint64_t kEntriesPerSector = 64;

  uint64_t offset() const { return offset_; }
  uint64_t size() const { return entries_.size(); }
  uint64_t bytes() const { return entries_.size() * 8; }
  uint64_t operator[](uint64_t index) const { return entries_[index]; }
  const std::vector<uint64_t>& entries() const { return entries_; }
  bool dirty() const { return !dirty_.empty(); }

  Task<Result<void>> place(Storage& file, uint64_t index, DebugEvent event);
  void set(uint64_t index, uint64_t value) {
    entries_[index] = value;
    dirty_.insert(static_cast<uint32_t>(index / kEntriesPerSector));
  }
  // Another place and content, all of it clean.
  void adopt(uint64_t offset, std::vector<uint64_t> entries) {
    offset_ = offset;
    entries_ = std::move(entries);
    dirty_.clear();
  }

  Task<Result<void>> read(Storage& file, uint64_t offset, uint64_t entries);
  Task<Result<void>> write_dirty(Storage& file, DebugEvent event);
  // In file byte order, padded with zeroes to `bytes`.
  static Buffer to_file(const std::vector<uint64_t>& entries, uint64_t bytes);

 private:
  uint64_t offset_ = 0;
  std::vector<uint64_t> entries_;
  std::set<uint32_t> dirty_;
};

}  // namespace blockbed::qcow2
