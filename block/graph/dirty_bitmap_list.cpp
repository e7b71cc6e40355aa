#include "block/graph/dirty_bitmap_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <ranges>

#include "block/graph/node.h"
#include "block/runtime/assert.h"

namespace blockbed {

namespace {

constexpr std::size_t kMaxNameBytes = 1023;
constexpr uint64_t kSmallestDefault = 4096;
constexpr uint64_t kLargestDefault = uint64_t{64} << 10;

// A granularity that is none is refused elsewhere.
Expected<void> check_pieces(std::string_view name, uint64_t granularity, uint64_t length) {
  if (granularity == 0 || Bitmap::fits(length, granularity)) return {};
  return fail(fmt::format(
      "Too much memory would be taken by the bitmap '{}'. Use larger granularity", name));
}

}  // namespace

DirtyBitmap* DirtyBitmapList::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

Expected<DirtyBitmap*> DirtyBitmapList::create(std::string name, uint64_t granularity,
                                               uint64_t length) {
  BB_TRY(check_pieces(name, granularity, length));
  return make_named(std::move(name), granularity, length);
}

Expected<DirtyBitmap*> DirtyBitmapList::create_inconsistent(std::string name, uint64_t granularity,
                                                            uint64_t length) {
  auto made = make_named(std::move(name), granularity, length);
  if (made) (*made)->set_inconsistent();
  return made;
}

Expected<DirtyBitmap*> DirtyBitmapList::make_named(std::string name, uint64_t granularity,
                                                   uint64_t length) {
  if (find(name) != nullptr) return fail(fmt::format("Bitmap already exists: {}", name));
  if (name.size() > kMaxNameBytes) return fail(fmt::format("Bitmap name too long: {}", name));
  auto made = make(std::move(name), granularity, length);
  if (made) by_name_.emplace((*made)->name(), *made);
  return made;
}

Expected<DirtyBitmap*> DirtyBitmapList::create_without_name(uint64_t granularity, uint64_t length) {
  BB_TRY(check_pieces("", granularity, length));
  return make(std::nullopt, granularity, length);
}

Expected<DirtyBitmap*> DirtyBitmapList::make(std::optional<std::string> name, uint64_t granularity,
                                             uint64_t length) {
  if (!std::has_single_bit(granularity) || granularity < DirtyBitmap::kMinGranularity ||
      granularity > DirtyBitmap::kMaxGranularity) {
    return fail("Granularity must be power of 2 and at least 512");
  }
  bitmaps_.push_back(std::make_unique<DirtyBitmap>(node_, std::move(name), length, granularity));
  return bitmaps_.back().get();
}

auto DirtyBitmapList::position_of(const DirtyBitmap& bitmap) const {
  const auto newest_first = bitmaps_ | std::views::reverse;
  const auto at = std::ranges::find(newest_first, &bitmap, &std::unique_ptr<DirtyBitmap>::get);
  BB_ASSERT(at != newest_first.end());
  return std::prev(at.base());
}

void DirtyBitmapList::remove(const DirtyBitmap& bitmap) {
  if (bitmap.has_name()) by_name_.erase(bitmap.name());
  bitmaps_.erase(position_of(bitmap));
}

void DirtyBitmapList::freeze(DirtyBitmap& bitmap) {
  BB_ASSERT(!bitmap.frozen());
  auto successor =
      std::make_unique<DirtyBitmap>(node_, std::nullopt, bitmap.length(), bitmap.granularity());
  successor->set_enabled(bitmap.enabled());
  bitmap.successor_ = successor.get();
  bitmaps_.push_back(std::move(successor));
}

void DirtyBitmapList::thaw_dropping(DirtyBitmap& bitmap) {
  BB_ASSERT(bitmap.frozen());
  DirtyBitmap& successor = *std::exchange(bitmap.successor_, nullptr);
  (void)bitmap.replace(std::move(successor.bits_));
  // As far as clients see it is the successor that stays.
  const auto from = bitmaps_.begin() + (position_of(bitmap) - bitmaps_.cbegin());
  const auto to = bitmaps_.begin() + (position_of(successor) - bitmaps_.cbegin());
  to->swap(*from);
  bitmaps_.erase(from);
}

void DirtyBitmapList::thaw_keeping(DirtyBitmap& bitmap) {
  BB_ASSERT(bitmap.frozen());
  const DirtyBitmap& successor = *std::exchange(bitmap.successor_, nullptr);
  bitmap.merge(successor);
  remove(successor);
}

uint64_t default_granularity(const Node& node) {
  const uint64_t cluster = node.driver().info().cluster_size;
  return cluster == 0 ? kLargestDefault : std::clamp(cluster, kSmallestDefault, kLargestDefault);
}

Expected<DirtyBitmap*> find_dirty_bitmap(const Node& node, std::string_view name) {
  if (DirtyBitmap* bitmap = node.dirty_bitmaps().find(name)) return bitmap;
  return fail(fmt::format("Dirty bitmap '{}' not found", name));
}

}  // namespace blockbed
