// PersistentBitmaps: dirty bitmaps that an image keeps while it is closed.
//
// Problem: an image that says a bitmap is right must not be written to without the bitmap. When it
// says so, and where the bits lie, is the format's business.
//
// Contract: a driver that keeps bitmaps implements this and returns itself from
// Driver::persistent_bitmaps(). It loads them when the node is opened, stores those of the node
// that are persistent when it is closed or left for reading, and keeps off what guests write
// meanwhile. Errors: texts of QEMU. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string>

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class PersistentBitmaps {
 public:
  virtual ~PersistentBitmaps() = default;

  // Whether another bitmap could be stored beside those that the image has and will have.
  virtual Task<Expected<void>> can_store(std::string name, uint64_t granularity) = 0;
  // The stored form goes, if there is one.
  virtual Task<Expected<void>> remove_stored(std::string name) = 0;
  // Bitmaps of the node are about to change otherwise than by its own writes: until they are
  // stored, the image must not say that what it has of them is right.
  virtual Task<Expected<void>> begin_change() = 0;
};

}  // namespace blockbed
