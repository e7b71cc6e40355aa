// DirtyBitmapList: the dirty bitmaps of a node.
//
// Contract: names are unique on the node; bitmaps without a name belong to jobs. They are told of
// every request that may have changed the node, and of its length. A bitmap that is in use is not
// removed. Bitmaps of a node end with it. An image may bring tens of thousands: finding and
// creating one does not look at all others, nor does removing the newest. Errors: texts of QEMU.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph/dirty_bitmap.h"

namespace blockbed {

class DirtyBitmapList {
 public:
  explicit DirtyBitmapList(const Node& node) : node_(node) {}

  bool empty() const { return bitmaps_.empty(); }
  // Newest first.
  auto begin() const { return bitmaps_.rbegin(); }
  auto end() const { return bitmaps_.rend(); }
  // Null: there is none.
  DirtyBitmap* find(std::string_view name) const;

  // Of a disk of that length. Refused when the name is taken or too long, the granularity is none,
  // or there are too many pieces.
  Expected<DirtyBitmap*> create(std::string name, uint64_t granularity, uint64_t length);
  // Of an image that says that its marks are not right: it has none, and may have any number of
  // pieces.
  Expected<DirtyBitmap*> create_inconsistent(std::string name, uint64_t granularity,
                                             uint64_t length);
  // For a job or filter.
  Expected<DirtyBitmap*> create_without_name(uint64_t granularity, uint64_t length);
  void remove(const DirtyBitmap& bitmap);

  // The marks stay as they are, whatever is written, until one of thaw_*(): a new bitmap without a
  // name takes the place of this one meanwhile.
  void freeze(DirtyBitmap& bitmap);
  // The frozen marks are done with: those made since then are the bitmap's.
  void thaw_dropping(DirtyBitmap& bitmap);
  // The frozen marks hold, and so do those made since then.
  void thaw_keeping(DirtyBitmap& bitmap);

  void mark(uint64_t offset, uint64_t length) {
    for (const auto& bitmap : bitmaps_) bitmap->mark(offset, length);
  }
  void resize(uint64_t length) {
    for (const auto& bitmap : bitmaps_) bitmap->resize(length);
  }

 private:
  Expected<DirtyBitmap*> make_named(std::string name, uint64_t granularity, uint64_t length);
  Expected<DirtyBitmap*> make(std::optional<std::string> name, uint64_t granularity,
                              uint64_t length);
  auto position_of(const DirtyBitmap& bitmap) const;

  const Node& node_;
  std::vector<std::unique_ptr<DirtyBitmap>> bitmaps_;
  // Those that have a name. A hash could be made to collide by who wrote the image.
  std::map<std::string_view, DirtyBitmap*> by_name_;
};

// What a mark stands for when nobody says it: the clusters of the image, within bounds.
uint64_t default_granularity(const Node& node);

// "Dirty bitmap 'x' not found".
Expected<DirtyBitmap*> find_dirty_bitmap(const Node& node, std::string_view name);

}  // namespace blockbed
