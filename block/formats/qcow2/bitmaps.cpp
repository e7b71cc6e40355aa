#include "block/formats/qcow2/bitmaps.h"

#include <fmt/format.h>

#include <cstring>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kEntryHeaderBytes = 24;
constexpr uint64_t kFlagsInEntry = 12;
constexpr uint8_t kTypeDirtyTracking = 1;

bool satisfies_constraints(const StoredBitmap& b, const Header& header) {
  // An empty name is none by the specification; QEMU takes it as any other.
  if (b.name.size() > kMaxBitmapNameBytes) return false;
  if ((b.flags & ~bitmap_flag::kKnown) != 0 || b.type != kTypeDirtyTracking) return false;
  if (b.granularity_bits < kMinGranularityBits || b.granularity_bits > kMaxGranularityBits) {
    return false;
  }
  if (b.table_offset == 0 || b.table_offset % header.cluster_size() != 0) return false;
  if (b.table_entries == 0 || b.table_entries > kMaxBitmapBytes >> header.cluster_bits) {
    return false;
  }
  // The table must reach as far as the disk does, unless the bitmap is known to be out of date.
  return b.in_use() || bitmap_table_entries(header, b.granularity_bits) <= b.table_entries;
}

}  // namespace

uint64_t bitmap_table_entries(const Header& header, uint8_t granularity_bits) {
  // At most 2^21 bytes of 8 bits of 2^31 bytes each: no overflow.
  const uint64_t coverage = header.cluster_size() * 8 << granularity_bits;
  return header.size / coverage + (header.size % coverage != 0 ? 1 : 0);
}

std::string_view inconsistent_bitmaps_warning(const Header& header) {
  // The older version has no such bit.
  return header.version < 3
             ? "This qcow2 v2 image contains bitmaps, but they may have been modified by a program "
               "without persistent bitmap support; so now they must all be considered inconsistent"
             : "a program lacking bitmap support modified this file, so all bitmaps are now "
               "considered inconsistent";
}

Task<Expected<std::vector<StoredBitmap>>> load_directory(Storage& file, const Header& header) {
  std::vector<StoredBitmap> bitmaps;
  if (!header.bitmaps) co_return bitmaps;
  const BitmapsExtension& extension = *header.bitmaps;
  if (extension.directory_size == 0) co_return fail("Requested bitmap directory size is zero");
  const auto unreadable = [](Errno error) {
    return fail(fmt::format("Failed to read bitmap directory: {}", strerror_text(error)));
  };
  if (extension.directory_offset > kMaxLength - extension.directory_size) {
    co_return unreadable(Errno(EIO));
  }
  auto file_length = co_await file.length();
  if (!file_length) co_return unreadable(file_length.error());
  // Behind the end of the file are zeroes: no memory is taken for more of them than make an entry.
  const uint64_t inside =
      *file_length - std::min(*file_length, extension.directory_offset) + kEntryHeaderBytes;
  Buffer directory(std::min(extension.directory_size, inside));
  if (auto read = co_await file.read(extension.directory_offset, directory.io()); !read) {
    co_return unreadable(read.error());
  }
  uint64_t at = 0;
  while (at < directory.size()) {
    if (directory.size() - at < kEntryHeaderBytes) co_return fail("Broken bitmap directory");
    const std::byte* const entry = directory.data() + at;
    StoredBitmap bitmap;
    bitmap.table_offset = load_be64(entry);
    bitmap.table_entries = load_be<uint32_t>(entry + 8);
    bitmap.flags = load_be<uint32_t>(entry + kFlagsInEntry);
    bitmap.type = static_cast<uint8_t>(entry[16]);
    bitmap.granularity_bits = static_cast<uint8_t>(entry[17]);
    bitmap.flags_position = extension.directory_offset + at + kFlagsInEntry;
    const uint32_t name_bytes = load_be<uint16_t>(entry + 18);
    const uint32_t extra = load_be<uint32_t>(entry + 20);
    const uint64_t entry_bytes = align_up(kEntryHeaderBytes + uint64_t{extra} + name_bytes, 8);
    if (bitmaps.size() == extension.count) {
      co_return fail("More bitmaps found than specified in header extension");
    }
    if (entry_bytes > directory.size() - at) co_return fail("Broken bitmap directory");
    bitmap.extra.assign(entry + kEntryHeaderBytes, entry + kEntryHeaderBytes + extra);
    bitmap.name.assign(reinterpret_cast<const char*>(entry) + kEntryHeaderBytes + extra,
                       name_bytes);
    if (!satisfies_constraints(bitmap, header)) {
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

std::vector<std::byte> serialise_directory(std::vector<StoredBitmap>& bitmaps) {
  std::vector<std::byte> out;
  for (StoredBitmap& b : bitmaps) {
    const std::size_t at = out.size();
    const std::size_t end = at + kEntryHeaderBytes + b.extra.size() + b.name.size();
    out.resize(align_up(end, 8));
    std::byte* const entry = out.data() + at;
    store_be64(entry, b.table_offset);
    store_be<uint32_t>(entry + 8, b.table_entries);
    store_be<uint32_t>(entry + kFlagsInEntry, b.flags);
    entry[16] = std::byte{b.type};
    entry[17] = std::byte{b.granularity_bits};
    store_be<uint16_t>(entry + 18, static_cast<uint16_t>(b.name.size()));
    store_be<uint32_t>(entry + 20, static_cast<uint32_t>(b.extra.size()));
    std::byte* const rest = entry + kEntryHeaderBytes;
    if (!b.extra.empty()) std::memcpy(rest, b.extra.data(), b.extra.size());
    std::memcpy(rest + b.extra.size(), b.name.data(), b.name.size());
    b.flags_position = at + kFlagsInEntry;
  }
  return out;
}

namespace {

Task<Result<void>> write_flags_word(Storage& file, uint64_t position, uint32_t flags) {
  std::byte bytes[4];
  store_be<uint32_t>(bytes, flags);
  co_return co_await file.write(position, IoVector(bytes, sizeof(bytes)));
}

}  // namespace

Task<Result<void>> mark_in_use(Storage& file, const std::vector<StoredBitmap>& bitmaps) {
  bool wrote = false;
  for (const StoredBitmap& bitmap : bitmaps) {
    if (bitmap.in_use()) continue;
    BB_CO_TRY(
        co_await write_flags_word(file, bitmap.flags_position, bitmap.flags | bitmap_flag::kInUse));
    wrote = true;
  }
  if (wrote) BB_CO_TRY(co_await file.flush());
  co_return Result<void>();
}

Task<Result<void>> write_flags(Storage& file, const std::vector<StoredBitmap>& bitmaps) {
  if (bitmaps.empty()) co_return Result<void>();
  for (const StoredBitmap& bitmap : bitmaps) {
    BB_CO_TRY(co_await write_flags_word(file, bitmap.flags_position, bitmap.flags));
  }
  co_return co_await file.flush();
}

}  // namespace blockbed::qcow2
