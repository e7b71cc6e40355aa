#include "block/formats/qcow2/resident_table.h"

#include <algorithm>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/geometry.h"

namespace blockbed::qcow2 {

Task<Result<void>> ResidentTable::read(Storage& file, uint64_t offset, uint64_t entries) {
  std::vector<uint64_t> table(entries);
  if (entries > 0) BB_CO_TRY(co_await file.read(offset, IoVector(table.data(), entries * 8)));
  for (uint64_t& entry : table) entry = load_be64(&entry);
  adopt(offset, std::move(table));
  co_return Result<void>();
}

Task<Result<void>> ResidentTable::write_dirty(Storage& file, DebugEvent event) {
  while (!dirty_.empty()) {
    const uint64_t first = *dirty_.begin();
    uint64_t end = first;
    for (uint32_t sector : dirty_) {
      if (sector != end) break;
      ++end;
    }
    Buffer buffer = Buffer::zeroed((end - first) * kSectorSize);
    const uint64_t begin_entry = first * kEntriesPerSector;
    const uint64_t end_entry = std::min<uint64_t>(end * kEntriesPerSector, entries_.size());
    for (uint64_t i = begin_entry; i < end_entry; ++i) {
      store_be64(buffer.data() + (i - begin_entry) * 8, entries_[i]);
    }
    co_await file.debug_event(event);
    BB_CO_TRY(co_await file.write(offset_ + first * kSectorSize, buffer.io()));
    while (!dirty_.empty() && *dirty_.begin() < end) dirty_.erase(dirty_.begin());
  }
  co_return Result<void>();
}

Task<Result<void>> ResidentTable::place(Storage& file, uint64_t index, DebugEvent event) {
  const uint64_t sector = index / kEntriesPerSector;
  if (dirty_.contains(static_cast<uint32_t>(sector))) co_return Result<void>();
  const uint64_t begin = sector * kEntriesPerSector;
  const uint64_t end = std::min<uint64_t>(begin + kEntriesPerSector, entries_.size());
  for (uint64_t i = begin; i < end; ++i) {
    if (entries_[i] != 0) co_return Result<void>();
  }
  const Buffer zeroes = Buffer::zeroed(kSectorSize);
  co_await file.debug_event(event);
  co_return co_await file.write(offset_ + sector * kSectorSize, zeroes.io());
}

Buffer ResidentTable::to_file(const std::vector<uint64_t>& entries, uint64_t bytes) {
  Buffer buffer = Buffer::zeroed(bytes);
  for (std::size_t i = 0; i < entries.size(); ++i) store_be64(buffer.data() + i * 8, entries[i]);
  return buffer;
}

}  // namespace blockbed::qcow2
