// The directory of persistent bitmaps in an image.
//
// Problem: whoever writes to an image that holds bitmaps and does not keep them up to date must say
// so in the image, or a backup made by them would miss writes. Their clusters are counted like any
// other, so a check must find them.
//
// Contract: load_directory reads and validates the directory that the header extension names;
// entries keep what is needed to find their clusters and to rewrite their flags in place.
// mark_in_use sets the in-use flag of every bitmap on the disk; a flag is one word within a sector,
// and set too early it is harmless. Bounds: directory size and count are checked by the header;
// tables by kMaxBitmapTableBytes. Units: bytes. Errors: texts of QEMU. Threading: engine thread
// only. Source: qcow2 specification, section Bitmaps; limits of QEMU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/storage.h"

namespace blockbed::qcow2 {

// QEMU's bound on one bitmap's table: 8 Mi entries.
inline constexpr uint64_t kMaxBitmapTableEntries = 0x8000000 / 8;
inline constexpr uint32_t kMaxBitmapNameBytes = 1023;

namespace bitmap_flag {
inline constexpr uint32_t kInUse = 1;
inline constexpr uint32_t kAuto = 2;
inline constexpr uint32_t kExtraCompatible = 4;
}  // namespace bitmap_flag

struct StoredBitmap {
  std::string name;
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  uint32_t flags = 0;
  uint8_t type = 1;
  uint8_t granularity_bits = 16;
  // Where the flags word lies in the file.
  uint64_t flags_position = 0;
};

Task<Expected<std::vector<StoredBitmap>>> load_directory(Storage& file, const Header& header);
Task<Result<void>> mark_in_use(Storage& file, const std::vector<StoredBitmap>& bitmaps);

}  // namespace blockbed::qcow2
