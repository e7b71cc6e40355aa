#include "block/formats/qcow2/bitmaps.h"

#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kEntryHeaderBytes = 24;
constexpr uint8_t kTypeDirtyTracking = 1;
constexpr uint8_t kMinGranularityBits = 9;
constexpr uint8_t kMaxGranularityBits = 31;

bool satisfies_constraints(const StoredBitmap& b, uint32_t extra, uint32_t name_bytes,
                           const Header& header) {
  if (name_bytes == 0 || name_bytes > kMaxBitmapNameBytes) return false;
  if (extra != 0 || b.type != kTypeDirtyTracking) return false;
  if (b.granularity_bits < kMinGranularityBits || b.granularity_bits > kMaxGranularityBits)
    return false;
  if (b.table_offset == 0 || b.table_offset % header.cluster_size() != 0) return false;
  if (b.table_entries == 0 || b.table_entries > kMaxBitmapTableEntries) return false;
  // The table must reach as far as the disk does, unless the bitmap is known to be out of date.
  const uint64_t coverage = header.cluster_size() * 8 << b.granularity_bits;
  const bool overflow = coverage >> b.granularity_bits != header.cluster_size() * 8;
  const uint64_t needed = overflow ? 1 : divide_up(header.size, coverage);
  return (b.flags & bitmap_flag::kInUse) != 0 || needed <= b.table_entries;
}

}  // namespace

Task<Expected<std::vector<StoredBitmap>>> load_directory(Storage& file, const Header& header) {
  std::vector<StoredBitmap> bitmaps;
  if (!header.bitmaps) co_return bitmaps;
  const BitmapsExtension& extension = *header.bitmaps;
  if (extension.directory_size == 0) co_return fail("Requested bitmap directory size is zero");
  auto file_length = co_await file.length();
  if (!file_length) co_return fail("Failed to read bitmap directory");
  if (extension.directory_offset > *file_length ||
      extension.directory_size > *file_length - extension.directory_offset) {
    // No memory is taken for what cannot be there; zeroes would be read.
    co_return fail("Bitmap '' doesn't satisfy the constraints");
  }
  Buffer directory(extension.directory_size);
  if (auto read = co_await file.read(extension.directory_offset, directory.io()); !read) {
    co_return fail("Failed to read bitmap directory");
  }
  uint64_t at = 0;
  while (at < directory.size()) {
    if (directory.size() - at < kEntryHeaderBytes) co_return fail("Broken bitmap directory");
    const std::byte* const entry = directory.data() + at;
    StoredBitmap bitmap;
    bitmap.table_offset = load_be64(entry);
    bitmap.table_entries = load_be<uint32_t>(entry + 8);
    bitmap.flags = load_be<uint32_t>(entry + 12);
    bitmap.type = static_cast<uint8_t>(entry[16]);
    bitmap.granularity_bits = static_cast<uint8_t>(entry[17]);
    bitmap.flags_position = extension.directory_offset + at + 12;
    const uint32_t name_bytes = load_be<uint16_t>(entry + 18);
    const uint32_t extra = load_be<uint32_t>(entry + 20);
    const uint64_t entry_bytes = align_up(kEntryHeaderBytes + uint64_t{extra} + name_bytes, 8);
    if (entry_bytes > directory.size() - at) co_return fail("Broken bitmap directory");
    bitmap.name.assign(reinterpret_cast<const char*>(entry) + kEntryHeaderBytes + extra,
                       name_bytes);
    if (bitmaps.size() == extension.count) {
      co_return fail("More bitmaps found than specified in header extension");
    }
    if (!satisfies_constraints(bitmap, extra, name_bytes, header)) {
      co_return fail(fmt::format("Bitmap '{}' doesn't satisfy the constraints", bitmap.name));
    }
    bitmaps.push_back(std::move(bitmap));
    at += entry_bytes;
  }
  if (bitmaps.size() != extension.count) {
    co_return fail("Less bitmaps found than specified in header extension");
  }
  co_return bitmaps;
}

Task<Result<void>> mark_in_use(Storage& file, const std::vector<StoredBitmap>& bitmaps) {
  bool wrote = false;
  for (const StoredBitmap& bitmap : bitmaps) {
    if ((bitmap.flags & bitmap_flag::kInUse) != 0) continue;
    std::byte flags[4];
    store_be<uint32_t>(flags, bitmap.flags | bitmap_flag::kInUse);
    BB_CO_TRY(co_await file.write(bitmap.flags_position, IoVector(flags, sizeof(flags))));
    wrote = true;
  }
  if (wrote) BB_CO_TRY(co_await file.flush());
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
