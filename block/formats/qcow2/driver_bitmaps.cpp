// Qcow2Driver: dirty bitmaps that are kept in the image.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ranges>

#include "block/formats/qcow2/bitmap_store.h"
#include "block/formats/qcow2/driver.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/runtime/event_sink.h"

namespace blockbed::qcow2 {

namespace {

// Words of a Bitmap are the bytes of the file.
static_assert(std::endian::native == std::endian::little);

// A job that works with it may fail, or the server end before it does: nothing may be missing then,
// so what is frozen goes together with what was marked since. Nothing else is copied: the bitmap
// does not change while it is stored.
class BitsToFile final : public BitmapSource {
 public:
  explicit BitsToFile(const DirtyBitmap& bitmap) : bitmap_(bitmap) {
    if (bitmap.frozen()) frozen_ = bitmap.all_bits();
  }

  uint64_t next_set(uint64_t first) const override {
    const uint64_t found = bits().next_set(first, bits().size());
    return found == bits().size() ? UINT64_MAX : found;
  }
  void give(uint64_t first, std::span<std::byte> bytes) const override {
    const auto all = std::as_bytes(bits().words());
    const std::size_t have = std::min(bytes.size(), all.size() - first / 8);
    std::memcpy(bytes.data(), all.data() + first / 8, have);
    std::memset(bytes.data() + have, 0, bytes.size() - have);
  }

 private:
  const Bitmap& bits() const { return frozen_ ? *frozen_ : bitmap_.bits(); }

  const DirtyBitmap& bitmap_;
  std::optional<Bitmap> frozen_;
};

class BitsFromFile final : public BitmapReceiver {
 public:
  explicit BitsFromFile(uint64_t bits) : bits_(bits) {}

  // Most words are zero, and stay untouched.
  void take(uint64_t first, std::span<const std::byte> bytes) override {
    constexpr std::size_t kWord = sizeof(uint64_t);
    for (; bytes.size() >= kWord; bytes = bytes.subspan(kWord), first += 64) {
      uint64_t word;
      std::memcpy(&word, bytes.data(), kWord);
      if (word != 0) {
        words_.push_back(word);
      } else if (!words_.empty()) {
        give_words(first);
      }
    }
    if (!bytes.empty()) {
      std::memcpy(&words_.emplace_back(0), bytes.data(), bytes.size());
      first += 64;
    }
    give_words(first);
  }
  void take_ones(uint64_t first, uint64_t count) override { bits_.set(first, first + count); }

  Bitmap take_bits() { return std::move(bits_); }

 private:
  // Those that end at bit `end`.
  void give_words(uint64_t end) {
    bits_.set_words(end - words_.size() * 64, words_);
    words_.clear();
  }

  Bitmap bits_;
  std::vector<uint64_t> words_;
};

bool is_to_be_stored(const DirtyBitmap& bitmap) {
  return bitmap.persistent() && !bitmap.inconsistent();
}

}  // namespace

Task<Expected<void>> Qcow2Driver::read_directory(const Header& header) {
  auto directory = co_await load_directory(*file_, header);
  if (!directory) co_return fail(std::move(directory).error());
  directory_ = std::move(*directory);
  co_return Expected<void>();
}

void Qcow2Driver::tell_of_inconsistent_bitmaps(const Header& header) const {
  if (!header.bitmaps_inconsistent) return;
  EventSink& events = node().graph().events();
  events.tell_error(fmt::format("warning: {}", inconsistent_bitmaps_warning(header)));
  events.tell(kInconsistentBitmapsHint);
}

Task<Expected<void>> Qcow2Driver::load_bitmaps(const Header& header,
                                               const std::vector<StoredBitmap>& directory) {
  DirtyBitmapList& list = node().dirty_bitmaps();
  std::vector<DirtyBitmap*> made;
  Expected<void> done;
  for (const StoredBitmap& stored : directory) {
    // One with a meaning that is not known is left where it is; what it says is out of date with
    // the first write.
    if (!stored.in_use() && !stored.usable()) continue;
    const uint64_t granularity = uint64_t{1} << stored.granularity_bits;
    auto created = stored.in_use() ? list.create_inconsistent(stored.name, granularity, header.size)
                                   : list.create(stored.name, granularity, header.size);
    done = created ? co_await load_bitmap(header, stored, **created)
                   : fail(std::move(created).error());
    if (created) made.push_back(*created);
    if (!done) break;
  }
  if (!done) {
    for (const DirtyBitmap* bitmap : made | std::views::reverse) list.remove(*bitmap);
  }
  co_return done;
}

Task<Expected<void>> Qcow2Driver::load_bitmap(const Header& header, const StoredBitmap& stored,
                                              DirtyBitmap& bitmap) {
  bitmap.set_persistent(true);
  bitmap.set_enabled(stored.automatic());
  if (!stored.in_use()) {
    BitsFromFile bits(bitmap.bits().size());
    BB_CO_TRY(co_await load_bits(*file_, header, stored, bits));
    (void)bitmap.replace(bits.take_bits());
  }
  bitmap.set_saved();
  co_return Expected<void>();
}

Task<Expected<void>> Qcow2Driver::mark_bitmaps() {
  if (directory_.empty() || !image_->metadata().options().writable) co_return Expected<void>();
  if (auto begun = co_await image_->begin_writing(); !begun) {
    co_return fail(
        fmt::format("Failed to update bitmap extension: {}", strerror_text(begun.error())));
  }
  co_return Expected<void>();
}

// What lies in the image is right, and only has to say so.
Task<Expected<void>> Qcow2Driver::store_flags(const std::vector<DirtyBitmap*>& bitmaps) {
  std::vector<FlagChange> changes;
  for (const DirtyBitmap* bitmap : bitmaps) {
    const uint32_t automatic = bitmap->enabled() ? bitmap_flag::kAuto : 0;
    changes.push_back({.name = bitmap->name(),
                       .set = automatic,
                       .clear = bitmap_flag::kInUse | (bitmap_flag::kAuto & ~automatic)});
  }
  co_return co_await change_bitmap_flags(image_->metadata(), std::move(changes));
}

Task<Expected<void>> Qcow2Driver::store_bits(const std::vector<DirtyBitmap*>& bitmaps) {
  std::vector<BitsToFile> sources;
  sources.reserve(bitmaps.size());
  std::vector<BitmapToStore> store;
  for (const DirtyBitmap* bitmap : bitmaps) {
    BitmapToStore one;
    one.name = bitmap->name();
    one.granularity_bits = bitmap->granularity_bits();
    one.enabled = bitmap->enabled();
    one.stored_bits_hold = !bitmap->unsaved();
    if (bitmap->unsaved()) one.bits = &sources.emplace_back(*bitmap);
    store.push_back(std::move(one));
  }
  co_return co_await qcow2::store_bitmaps(image_->metadata(), std::move(store));
}

Task<Expected<void>> Qcow2Driver::store_bitmaps() {
  // Newest first, as QEMU stores them.
  std::vector<DirtyBitmap*> bitmaps;
  for (const auto& bitmap : node().dirty_bitmaps()) {
    if (is_to_be_stored(*bitmap) && !bitmap->read_only()) bitmaps.push_back(bitmap.get());
  }
  if (!bitmaps.empty() && !node().writable()) co_return fail("No write access");
  const bool unsaved = std::ranges::any_of(bitmaps, &DirtyBitmap::unsaved);
  // Marked, or said so already when this Image began.
  const bool in_use =
      image_->writing() || flags_unsure_ || std::ranges::any_of(directory_, &StoredBitmap::in_use);
  // Whether they record may have changed while the image said that they are right.
  const auto flag_changed = [this](const StoredBitmap& stored) {
    const DirtyBitmap* bitmap = node().dirty_bitmaps().find(stored.name);
    return bitmap != nullptr && is_to_be_stored(*bitmap) && !bitmap->read_only() &&
           stored.automatic() != bitmap->enabled();
  };
  if (!unsaved && !in_use && std::ranges::none_of(directory_, flag_changed)) {
    co_return Expected<void>();
  }
  if (bitmaps.empty()) co_return Expected<void>();
  // The image may say that they are right from here on, also when this fails: the next write has to
  // say otherwise first.
  image_->end_writing();
  flags_unsure_ = true;
  BB_CO_TRY(co_await (unsaved ? store_bits(bitmaps) : store_flags(bitmaps)));
  flags_unsure_ = false;
  for (DirtyBitmap* bitmap : bitmaps) bitmap->set_saved();
  co_return co_await read_directory(image_->header());
}

Task<void> Qcow2Driver::store_bitmaps_or_tell() {
  if (node().flags().inactive || image_->metadata().failed()) co_return;
  const auto tell_lost = [this](const std::string& why) {
    node().graph().events().tell_error(fmt::format(
        "Lost persistent bitmaps during inactivation of node '{}': {}", node().name(), why));
  };
  if (auto done = co_await store_bitmaps(); !done) tell_lost(done.error().description);
  // One that the disk outgrew before it was stored for the first time.
  for (const auto& bitmap : node().dirty_bitmaps()) {
    if (!bitmap->persistent() || !bitmap->inconsistent() || bitmap->stored()) continue;
    tell_lost(fmt::format("Bitmap '{}' is inconsistent and cannot be used", bitmap->name()));
  }
}

// What cannot follow the disk must not be left behind as if it had.
Expected<void> Qcow2Driver::bitmaps_can_follow() const {
  for (const StoredBitmap& stored : directory_) {
    const DirtyBitmap* bitmap = node().dirty_bitmaps().find(stored.name);
    if (bitmap == nullptr) {
      return fail("Cannot resize qcow2 with persistent bitmaps that were not loaded into memory");
    }
    BB_TRY(bitmap->check());
  }
  return {};
}

// --- PersistentBitmaps

Task<Expected<void>> Qcow2Driver::can_store(std::string name, uint64_t granularity) {
  BitmapToStore bitmap;
  bitmap.name = std::move(name);
  bitmap.granularity_bits = static_cast<uint8_t>(std::countr_zero(granularity));
  std::vector<std::string> others;
  for (const auto& other : node().dirty_bitmaps()) {
    if (is_to_be_stored(*other)) others.push_back(other->name());
  }
  co_return co_await can_store_bitmap(*file_, image_->header(), bitmap, std::move(others));
}

Task<Expected<void>> Qcow2Driver::remove_stored(std::string name) {
  // Nobody will read any more what the image says.
  if (medium_lost()) co_return Expected<void>();
  // What such an image has is not removed by anybody (DirtyBitmap::read_only).
  if (!node().writable()) co_return Expected<void>();
  BB_CO_TRY(co_await remove_bitmap(image_->metadata(), std::move(name)));
  co_return co_await read_directory(image_->header());
}

Task<Expected<void>> Qcow2Driver::begin_change() { return mark_bitmaps(); }

}  // namespace blockbed::qcow2
