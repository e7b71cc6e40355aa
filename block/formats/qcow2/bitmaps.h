// The directory of persistent bitmaps in an image.
//
// Problem: whoever writes to an image that holds bitmaps and does not keep them up to date must say
// so in the image, or a backup made by them would miss writes. Their clusters are counted like any
// other, so a check must find them.
//
// Contract: load_directory reads and validates the directory that the header extension names; it is
// empty when the image has none, or one that does not count because the feature bit is missing.
// Extra data, which nobody gives a meaning to so far, is kept; QEMU refuses the whole image.
// serialise_directory gives the bytes for a new place, and says where the flags lie there.
// write_flags changes flags in place: each is one word within a sector. mark_in_use sets the in-use
// flag of every bitmap on the disk; set too early it is harmless. What is in the bitmaps is read
// and written by bitmap_bits.h and bitmap_store.h. Bounds: directory size and count are checked by
// the header; tables by kMaxBitmapBytes. Units: bytes. Errors: texts of QEMU. Threading: engine
// thread only. Source: qcow2 specification, section Bitmaps; limits of QEMU, compared with qemu-io
// 7.2 on changed directories.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

// What QEMU takes into memory for one bitmap, by the clusters that its table has entries for.
inline constexpr uint64_t kMaxBitmapBytes = uint64_t{512} << 20;
inline constexpr uint32_t kMaxBitmapNameBytes = 1023;
inline constexpr uint8_t kMinGranularityBits = 9;
inline constexpr uint8_t kMaxGranularityBits = 31;
// QEMU's bounds on what a header may say (header.cpp); nothing beyond them is written.
inline constexpr std::size_t kMaxStoredBitmaps = 65535;
inline constexpr uint64_t kMaxStoredDirectoryBytes = uint64_t{1024} * kMaxStoredBitmaps;

namespace bitmap_flag {
inline constexpr uint32_t kInUse = 1;
inline constexpr uint32_t kAuto = 2;
inline constexpr uint32_t kExtraCompatible = 4;
inline constexpr uint32_t kKnown = 7;
}  // namespace bitmap_flag

struct StoredBitmap {
  std::string name;
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  uint32_t flags = 0;
  uint8_t type = 1;
  uint8_t granularity_bits = 16;
  std::vector<std::byte> extra;
  // Where the flags word lies in the file.
  uint64_t flags_position = 0;

  bool in_use() const { return (flags & bitmap_flag::kInUse) != 0; }
  // Records from the moment that the image is opened.
  bool automatic() const { return (flags & bitmap_flag::kAuto) != 0; }
  // Extra data that is not known to be harmless: the bitmap is kept as it is, neither used nor
  // replaced.
  bool unknown() const { return !extra.empty() && (flags & bitmap_flag::kExtraCompatible) == 0; }
  bool usable() const { return !in_use() && !unknown(); }
};

// What an operator is told of an image whose bitmaps do not count because their feature bit is
// missing (Header::bitmaps_inconsistent), and of the clusters that they had.
std::string_view inconsistent_bitmaps_warning(const Header& header);
inline constexpr std::string_view kInconsistentBitmapsHint =
    "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.";

Task<Expected<std::vector<StoredBitmap>>> load_directory(Storage& file, const Header& header);
// Every flags_position is set to where the flags lie in the result.
std::vector<std::byte> serialise_directory(std::vector<StoredBitmap>& bitmaps);

Task<Result<void>> mark_in_use(Storage& file, const std::vector<StoredBitmap>& bitmaps);
// The flags of `bitmaps` at their positions, then a flush.
Task<Result<void>> write_flags(Storage& file, const std::vector<StoredBitmap>& bitmaps);

// Clusters of data that a bitmap of the whole disk has.
uint64_t bitmap_table_entries(const Header& header, uint8_t granularity_bits);

}  // namespace blockbed::qcow2
