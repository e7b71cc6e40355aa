// Persistent bitmaps stored in and removed from an image.
//
// Problem: a backup made by a bitmap that misses writes is wrong and nobody sees it. So at every
// instant of a change a bitmap on the disk is complete, or says that it is in use, or is not there.
//
// Contract: these take the metadata lock and follow order_of_writes.md, "bitmaps". They may run
// beside requests; bits that a source gives are those of the moment they are asked for.
//  - What is written with `in_use` false is believed by the next one to open the image. So guest
//    data that changes afterwards needs mark_in_use() first, as begin_writing() of an image does
//    before its first write: bitmaps are stored last, before the image is closed.
//  - An error leaves the image with the old bitmaps, or with complete new ones, some of them in
//    use; or, where the header's change spans sectors, with none. What was prepared leaks at worst.
// Units: bytes. Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/qcow2/bitmap_bits.h"
#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/metadata.h"

namespace blockbed::qcow2 {

struct BitmapToStore {
  std::string name;
  uint8_t granularity_bits = 16;
  // Tracks writes from the first one after the image is opened: the flag auto.
  bool enabled = true;
  bool in_use = false;
  // Null: the bits that are stored under this name, and their granularity, stay as they are.
  const BitmapSource* bits = nullptr;
  // With null bits: the caller knows that what is stored is right, although it may say in-use.
  bool stored_bits_hold = false;
};

// Whether `bitmap` could be stored beside what is there, and beside `others` that will be; reads
// the directory.
Task<Expected<void>> can_store_bitmap(Storage& file, const Header& header,
                                      const BitmapToStore& bitmap, std::vector<std::string> others);

// Replaces those with the same names, adds the others, and lets all else be. All of them or none.
Task<Expected<void>> store_bitmaps(Metadata& metadata, std::vector<BitmapToStore> bitmaps);
// One that is not stored is no error, as with QEMU.
Task<Expected<void>> remove_bitmap(Metadata& metadata, std::string name);
// Bits of bitmap_flag: in-use and auto.
struct FlagChange {
  std::string name;
  uint32_t set = 0;
  uint32_t clear = 0;
};
// In place; `clear` is durable only after all that was written before. An image may have tens of
// thousands of bitmaps: the directory is read once for all of `changes`, and what can be refused is
// refused before the first is written.
Task<Expected<void>> change_bitmap_flags(Metadata& metadata, std::vector<FlagChange> changes);

}  // namespace blockbed::qcow2
