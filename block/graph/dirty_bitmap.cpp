#include "block/graph/dirty_bitmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "block/graph/node.h"
#include "block/runtime/assert.h"

namespace blockbed {

namespace {

constexpr uint64_t kSector = 512;

// As others count the disk: a file that is one may end within a sector.
uint64_t whole_sectors(uint64_t length) {
  return (length / kSector + (length % kSector != 0 ? 1 : 0)) * kSector;
}

}  // namespace

DirtyBitmap::DirtyBitmap(const Node& node, std::optional<std::string> name, uint64_t length,
                         uint64_t granularity)
    : node_(node),
      has_name_(name.has_value()),
      name_(std::move(name).value_or("")),
      granularity_bits_(static_cast<uint8_t>(std::countr_zero(granularity))),
      length_(length),
      inconsistent_(!Bitmap::fits(length, granularity)) {
  BB_ASSERT(std::has_single_bit(granularity) && granularity >= kMinGranularity &&
            granularity <= kMaxGranularity);
  if (!inconsistent_) bits_ = Bitmap(pieces(length));
}

DirtyBitmap::~DirtyBitmap() { BB_ASSERT(uses_ == 0); }

bool DirtyBitmap::read_only() const { return persistent_ && stored_ && !node_.writable(); }

Expected<void> DirtyBitmap::check(Accept accept) const {
  if (busy()) {
    return fail(fmt::format(
        "Bitmap '{}' is currently in use by another operation and cannot be used", name_));
  }
  if (accept != Accept::kReadOnly) BB_TRY(check_writable());
  if (inconsistent_ && accept != Accept::kInconsistent) {
    return fail(fmt::format("Bitmap '{}' is inconsistent and cannot be used", name_));
  }
  return {};
}

Expected<void> DirtyBitmap::check_writable() const {
  if (!read_only()) return {};
  return fail(fmt::format("Bitmap '{}' is readonly and cannot be modified", name_));
}

Expected<void> DirtyBitmap::check_same_disk(uint64_t length) const {
  if (whole_sectors(length) == whole_sectors(length_)) return {};
  return fail(
      fmt::format("Bitmaps are of different sizes (destination size is {}, source size is {}) "
                  "and can't be merged",
                  whole_sectors(length), whole_sectors(length_)));
}

Bitmap DirtyBitmap::all_bits() const {
  Bitmap all = bits_;
  if (frozen()) all.merge(successor_->bits_);
  return all;
}

void DirtyBitmap::set(uint64_t offset, uint64_t length) {
  const uint64_t end = std::min(offset + length, length_);
  if (offset >= end) return;
  bits_.set(offset >> granularity_bits_, pieces(end));
  unsaved_ = true;
}

void DirtyBitmap::unset(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  BB_ASSERT(end <= length_ && offset % granularity() == 0);
  BB_ASSERT(end == length_ || end % granularity() == 0);
  bits_.clear(offset >> granularity_bits_, pieces(end));
  unsaved_ = true;
}

void DirtyBitmap::resize(uint64_t length) {
  if (length == length_) return;
  length_ = length;
  unsaved_ = true;
  if (inconsistent_) return;
  if (Bitmap::fits(length, granularity())) return bits_.resize(pieces(length));
  set_inconsistent();
}

void DirtyBitmap::set_inconsistent() {
  inconsistent_ = true;
  bits_ = Bitmap();
}

void DirtyBitmap::merge(const DirtyBitmap& other) {
  BB_ASSERT(whole_sectors(other.length_) == whole_sectors(length_));
  unsaved_ = true;
  // No piece is smaller than a sector: there are as many of them.
  if (other.granularity_bits_ == granularity_bits_) return merge(other.bits_);
  for (uint64_t at = other.next_dirty(0); at < std::min(length_, other.length_);) {
    const uint64_t end = other.next_clean(at);
    set(at, end - at);
    at = other.next_dirty(end);
  }
}

void DirtyBitmap::merge(const Bitmap& bits) {
  unsaved_ = true;
  bits_.merge(bits);
}

Bitmap DirtyBitmap::replace(Bitmap bits) {
  BB_ASSERT(bits.size() == bits_.size());
  unsaved_ = true;
  return std::exchange(bits_, std::move(bits));
}

uint64_t DirtyBitmap::next_dirty(uint64_t offset) const {
  if (offset >= length_) return length_;
  const uint64_t bit = bits_.next_set(offset >> granularity_bits_, bits_.size());
  return std::clamp(bit << granularity_bits_, offset, length_);
}

uint64_t DirtyBitmap::next_clean(uint64_t offset) const {
  if (offset >= length_) return length_;
  const uint64_t bit = bits_.next_clear(offset >> granularity_bits_, bits_.size());
  return std::clamp(bit << granularity_bits_, offset, length_);
}

}  // namespace blockbed
