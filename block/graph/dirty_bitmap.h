// DirtyBitmap: what was written to a node since some instant.
//
// Problem: an incremental backup copies what its bitmap says, so a write that is not marked is lost
// for ever, and nobody sees it. Marks are made by the node, whatever way a write took to it; what
// may be done to the marks meanwhile depends on who uses them.
//
// Contract
//  - A mark stands for `granularity` bytes, a power of two from kMinGranularity to kMaxGranularity.
//    The node marks what a request may have changed, also when the request failed; a disabled
//    bitmap takes no marks, an inconsistent one has none that mean anything.
//  - check() says whether a client's command may touch the bitmap. A Use forbids that as long as it
//    lives; who holds one keeps the node alive.
//  - While a bitmap is frozen (DirtyBitmapList::freeze) its marks stay as they are, and its
//    successor takes those of writes: what is frozen is what a job copies.
//  - What is persistent is kept in the image by the driver (persistent_bitmaps.h); unsaved() says
//    whether the image has other marks.
// Units: bytes. Errors: texts of QEMU. Threading: engine thread only.
// Source of the rules: BlockDirtyInfo and block-dirty-bitmap-* of QEMU 7.2.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "block/graph/bitmap.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Node;

class DirtyBitmap {
 public:
  static constexpr uint64_t kMinGranularity = 512;
  static constexpr uint64_t kMaxGranularity = uint64_t{1} << 31;

  // Nothing for a name: made by a job for itself, and no client can name it. It is inconsistent
  // when a disk of that length has too many pieces.
  DirtyBitmap(const Node& node, std::optional<std::string> name, uint64_t length,
              uint64_t granularity);
  ~DirtyBitmap();
  DirtyBitmap(const DirtyBitmap&) = delete;
  DirtyBitmap& operator=(const DirtyBitmap&) = delete;

  // --- facts
  bool has_name() const { return has_name_; }
  // Clients give none that is empty; an image may have one.
  const std::string& name() const { return name_; }
  uint64_t granularity() const { return uint64_t{1} << granularity_bits_; }
  uint8_t granularity_bits() const { return granularity_bits_; }
  // Of the disk.
  uint64_t length() const { return length_; }
  // Bytes that are marked, in whole pieces.
  uint64_t count() const { return bits_.count() << granularity_bits_; }
  const Bitmap& bits() const { return bits_; }
  // What is known to be changed: while it is frozen, what its successor marks too.
  Bitmap all_bits() const;
  bool enabled() const { return enabled_; }
  // Writes are marked here, or in the successor.
  bool recording() const { return enabled_ && !inconsistent_; }
  bool busy() const { return uses_ > 0; }
  bool persistent() const { return persistent_; }
  bool inconsistent() const { return inconsistent_; }
  // An image that cannot be written to has it: it stays as it is there.
  bool read_only() const;
  bool frozen() const { return successor_ != nullptr; }

  // What a command can do without.
  enum class Accept { kNothing, kReadOnly, kInconsistent };
  Expected<void> check(Accept accept = Accept::kNothing) const;
  // May its marks be those of a disk of that length? Both are counted in whole sectors.
  Expected<void> check_same_disk(uint64_t length) const;
  // For who uses it already.
  Expected<void> check_writable() const;

  // --- by the node
  void mark(uint64_t offset, uint64_t length) {
    if (recording() && !frozen()) set(offset, length);
  }
  void resize(uint64_t length);

  // --- by commands and jobs, who asked check()
  void set_enabled(bool enabled) { enabled_ = enabled; }
  void set_persistent(bool persistent) { persistent_ = persistent; }
  // It was not stored when its image was closed: nothing is known.
  void set_inconsistent();
  // Marks the range whether writes are recorded or not.
  void set(uint64_t offset, uint64_t length);
  // Whole pieces.
  void unset(uint64_t offset, uint64_t length);
  // Of a bitmap of the same disk, see check_same_disk().
  void merge(const DirtyBitmap& other);
  // Marks of this bitmap, as clear() gave them.
  void merge(const Bitmap& bits);
  // All marks at once; what was there.
  Bitmap replace(Bitmap bits);
  Bitmap clear() { return replace(Bitmap(bits_.size())); }

  // The first marked byte at or behind `offset`; length() when there is none. next_clean()
  // likewise.
  uint64_t next_dirty(uint64_t offset) const;
  uint64_t next_clean(uint64_t offset) const;

  // Somebody works with it: whoever asks check() is refused.
  class [[nodiscard]] Use {
   public:
    Use() = default;
    explicit Use(DirtyBitmap& bitmap) : bitmap_(&bitmap) { ++bitmap.uses_; }
    Use(Use&& other) noexcept : bitmap_(std::exchange(other.bitmap_, nullptr)) {}
    Use& operator=(Use other) noexcept {
      std::swap(bitmap_, other.bitmap_);
      return *this;
    }
    ~Use() {
      if (bitmap_ != nullptr) --bitmap_->uses_;
    }
    explicit operator bool() const { return bitmap_ != nullptr; }
    DirtyBitmap& operator*() const { return *bitmap_; }
    DirtyBitmap* operator->() const { return bitmap_; }

   private:
    DirtyBitmap* bitmap_ = nullptr;
  };

  // --- by the driver that keeps it
  // Loaded from the image, or stored there.
  bool stored() const { return stored_; }
  bool unsaved() const { return unsaved_ || (frozen() && successor_->unsaved_); }
  void set_removed() {
    stored_ = false;
    unsaved_ = true;
  }
  void set_saved() {
    stored_ = true;
    unsaved_ = false;
    if (frozen()) successor_->unsaved_ = false;
  }

 private:
  friend class DirtyBitmapList;

  uint64_t pieces(uint64_t length) const {
    return (length >> granularity_bits_) + ((length & (granularity() - 1)) != 0 ? 1 : 0);
  }

  const Node& node_;
  const bool has_name_;
  const std::string name_;
  const uint8_t granularity_bits_;
  uint64_t length_;
  Bitmap bits_;
  DirtyBitmap* successor_ = nullptr;
  int uses_ = 0;
  bool enabled_ = true;
  bool persistent_ = false;
  bool inconsistent_ = false;
  bool stored_ = false;
  bool unsaved_ = true;
};

}  // namespace blockbed
