// measure: how large the file of a new image will be, before it is made.
//
// Problem: who copies a disk into an image of a logical volume must know how large the volume has
// to be: with every cluster allocated, and with those only that hold data now.
//
// Contract
//  - full_file_size(): header, tables and counts for all of the disk, and all of its clusters.
//  - `data_bytes` of measure() counts whole clusters that the copy allocates (DataCounter).
//  - bitmaps_size(): what the persistent bitmaps of an image take in one with such clusters.
// Units: bytes. Errors: texts of QEMU. Threading: pure functions.
// Source of the rule: the numbers of `qemu-img measure` of QEMU 7.2; qcow2 specification for the
// sizes of tables.
#pragma once

#include <cstdint>
#include <span>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/create.h"

namespace blockbed::qcow2 {

struct Measure {
  uint64_t required = 0;
  uint64_t fully_allocated = 0;
};

// `data_bytes`: clusters that are written; all of them when the options preallocate data.
Expected<Measure> measure(const CreateOptions& options, uint64_t data_bytes);

// Counts the clusters that runs of data touch, given in order.
class DataCounter {
 public:
  explicit DataCounter(uint64_t cluster_size) : cluster_(cluster_size) {}
  void add(uint64_t offset, uint64_t length);
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t cluster_;
  uint64_t end_ = 0;
  uint64_t bytes_ = 0;
};

uint64_t bitmaps_size(std::span<const StoredBitmap> bitmaps, uint64_t disk_size,
                      uint64_t cluster_size);

}  // namespace blockbed::qcow2
