// The bits of persistent bitmaps: tables and clusters.
//
// Problem: a bitmap in an image is a table of clusters of bits, where a cluster of equal bits need
// not exist. Who tracks writes keeps bits in a form of its own.
//
// Contract: bit n stands for bytes [n << granularity, (n + 1) << granularity) of the disk; bit n is
// bit n % 8 of byte n / 8. Both directions go through the disk once, 256 KiB or a cluster at a
// time, and take memory for the table and that. Bits behind the disk's end are zero in the file and
// are never given to a receiver as ones.
//  - load_bits: of a bitmap that is usable(). The table has exactly the entries that the disk
//    needs, as with QEMU; tables and clusters lie inside the file, which QEMU does not ask for (a
//    cut-off file would give zeroes: writes that nobody remembers).
//  - write_bits [locked, ready for writing]: to new clusters that nothing refers to yet. What it
//    added to the counts is in `added`, also after an error.
// Units: bits and bytes as named. Errors: texts of QEMU for loading, errno for writing. Threading:
// engine thread only. Source: qcow2 specification, sections Bitmap table and Bitmap data.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/snapshot_references.h"

namespace blockbed::qcow2 {

// Starts with all bits zero. Calls come in the order of bits.
class BitmapReceiver {
 public:
  virtual ~BitmapReceiver() = default;
  // `first` is a multiple of 8; bits that `bytes` has behind the last one of the disk are zero.
  virtual void take(uint64_t first, std::span<const std::byte> bytes) = 0;
  virtual void take_ones(uint64_t first, uint64_t count) = 0;
};

class BitmapSource {
 public:
  virtual ~BitmapSource() = default;
  // The first set bit at `first` or behind; UINT64_MAX: there is none.
  virtual uint64_t next_set(uint64_t first) const = 0;
  // Fills `bytes` with the bits from `first` on, which is a multiple of 8. What lies behind the
  // last bit does not matter.
  virtual void give(uint64_t first, std::span<std::byte> bytes) const = 0;
};

struct BitmapTable {
  uint64_t offset = 0;
  // Host byte order: 0, 1 (all ones), or the place of a cluster.
  std::vector<uint64_t> entries;
};

Task<Expected<void>> load_bits(Storage& file, const Header& header, const StoredBitmap& bitmap,
                               BitmapReceiver& receiver);
// EINVAL: an entry that cannot be, or something outside of the file. EIO: where no file reaches.
Task<Result<std::vector<uint64_t>>> read_bitmap_table(Storage& file, const Header& header,
                                                      const StoredBitmap& bitmap);

struct HostRange {
  uint64_t host = 0;
  uint64_t bytes = 0;
};

Task<Result<BitmapTable>> write_bits(Metadata& metadata, const BitmapSource& source,
                                     uint8_t granularity_bits, AddedReferences& added,
                                     std::vector<HostRange>& placed);

}  // namespace blockbed::qcow2
