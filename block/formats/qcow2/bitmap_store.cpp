#include "block/formats/qcow2/bitmap_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

namespace {

std::unexpected<Error> not_updated(Errno error) {
  return fail(fmt::format("Failed to update bitmap extension: {}", strerror_text(error)));
}

// Where in a directory who is.
using Places = std::map<std::string, std::size_t, std::less<>>;

// The first of each name.
Places places_of(const std::vector<StoredBitmap>& bitmaps) {
  Places places;
  for (std::size_t i = 0; i < bitmaps.size(); ++i) places.emplace(bitmaps[i].name, i);
  return places;
}

Expected<void> names_differ(const std::vector<StoredBitmap>& bitmaps, const Places& places) {
  for (std::size_t i = 0; i < bitmaps.size(); ++i) {
    if (places.find(bitmaps[i].name)->second != i) {
      return fail(fmt::format("Bitmap already exists: {}", bitmaps[i].name));
    }
  }
  return {};
}

uint64_t directory_bytes(const std::vector<StoredBitmap>& bitmaps) {
  uint64_t bytes = 0;
  for (const StoredBitmap& b : bitmaps) bytes += align_up(24 + b.extra.size() + b.name.size(), 8);
  return bytes;
}

Expected<void> fits(const std::vector<StoredBitmap>& bitmaps) {
  if (bitmaps.size() > kMaxStoredBitmaps) {
    return fail("Maximum number of persistent bitmaps is already reached");
  }
  if (directory_bytes(bitmaps) > kMaxStoredDirectoryBytes) {
    return fail("No space in bitmap directory");
  }
  return {};
}

Expected<void> may_store(const Header& header, const BitmapToStore& bitmap) {
  if (header.version < 3) return fail("Cannot store dirty bitmaps in qcow2 v2 files");
  if (bitmap.name.size() > kMaxBitmapNameBytes) {
    return fail(fmt::format("Name length exceeds maximum ({} characters)", kMaxBitmapNameBytes));
  }
  if (bitmap.granularity_bits > kMaxGranularityBits) {
    return fail(
        fmt::format("Granularity exceeds maximum ({} bytes)", uint64_t{1} << kMaxGranularityBits));
  }
  if (bitmap.granularity_bits < kMinGranularityBits) {
    return fail(
        fmt::format("Granularity is under minimum ({} bytes)", uint64_t{1} << kMinGranularityBits));
  }
  if (bitmap_table_entries(header, bitmap.granularity_bits) > kMaxBitmapBytes >>
      header.cluster_bits) {
    return fail("Too much space will be occupied by the bitmap. Use larger granularity");
  }
  return {};
}

// One that means more than is known here belongs to whoever wrote it.
Expected<void> may_replace(const StoredBitmap& bitmap) {
  if (!bitmap.unknown()) return {};
  return fail(
      fmt::format("Bitmap already exists: {}: Bitmap extra data is not supported", bitmap.name));
}

// One change of the directory: what it is to be, what was made for it, what it leaves behind.
class Change {
 public:
  explicit Change(Metadata& metadata) : metadata_(metadata), added_(metadata) {}

  std::vector<StoredBitmap> bitmaps;

  // The table of one that is replaced or removed, and its clusters: free when all is done.
  Task<void> leave(const StoredBitmap& bitmap);
  Task<Result<BitmapTable>> write(const BitmapSource& source, uint8_t granularity_bits) {
    return write_bits(metadata_, source, granularity_bits, added_, placed_);
  }
  Task<Result<void>> commit();
  Task<void> give_up() { return added_.take_back(); }

 private:
  Task<Result<void>> write_directory(std::vector<StoredBitmap> listed, Header& next);
  Task<Result<void>> switch_header(Header next);
  Task<Result<void>> rewrite_without_bit_first(Header next);
  void protect(const std::optional<BitmapsExtension>& old);
  void free_left();

  Metadata& metadata_;
  AddedReferences added_;
  std::vector<HostRange> placed_;
  std::vector<HostRange> left_;
  uint64_t directory_ = 0;
  // The new header differs from the old one in one sector.
  bool in_one_write_ = false;
};

Task<void> Change::leave(const StoredBitmap& bitmap) {
  const uint64_t cluster = metadata_.geometry().cluster_size;
  // What cannot be read, or is no table, leaks.
  auto entries = co_await read_bitmap_table(metadata_.file(), metadata_.header(), bitmap);
  if (!entries) co_return;
  left_.push_back(HostRange{bitmap.table_offset, align_up(entries->size() * 8, cluster)});
  for (const uint64_t entry : *entries) {
    if (entry > 1) left_.push_back(HostRange{entry, cluster});
  }
}

Task<Result<void>> Change::write_directory(std::vector<StoredBitmap> listed, Header& next) {
  next.autoclear_features &= ~autoclear::kBitmaps;
  next.bitmaps.reset();
  next.bitmaps_inconsistent = false;
  if (listed.empty()) co_return Result<void>();
  // Until the header is known to be on the disk, no more is said than this.
  for (StoredBitmap& b : listed) b.flags |= bitmap_flag::kInUse;
  const std::vector<std::byte> bytes = serialise_directory(listed);
  const Geometry& g = metadata_.geometry();
  auto room = co_await metadata_.allocate(g.clusters(bytes.size()), "bitmap directory");
  if (!room) co_return io_error(room.error());
  const uint64_t whole = align_up(bytes.size(), g.cluster_size);
  added_.add(room->host, whole);
  placed_.push_back(HostRange{room->host, whole});
  Buffer content = Buffer::zeroed(whole);
  std::ranges::copy(bytes, content.data());
  BB_CO_TRY(co_await metadata_.file().write(room->host, content.io()));
  directory_ = room->host;
  BitmapsExtension extension;
  extension.count = static_cast<uint32_t>(listed.size());
  extension.directory_size = bytes.size();
  extension.directory_offset = directory_;
  next.bitmaps = extension;
  next.autoclear_features |= autoclear::kBitmaps;
  co_return Result<void>();
}

// In one write when one sector changes. If not, the feature bit is cleared meanwhile: what may be a
// mixture of the old and the new then does not count.
Task<Result<void>> Change::switch_header(Header next) {
  const auto bytes = serialise_header(next);
  if (!bytes) co_return io_error(ENOSPC);
  Buffer present(bytes->size());
  BB_CO_TRY(co_await metadata_.file().read(0, present.io()));
  std::size_t changed = 0;
  for (std::size_t at = 0; at < bytes->size(); at += kSectorSize) {
    changed += std::memcmp(present.data() + at, bytes->data() + at, kSectorSize) != 0 ? 1 : 0;
  }
  in_one_write_ = changed <= 1;
  if (in_one_write_) co_return co_await metadata_.rewrite_header(std::move(next));
  const uint64_t present_bits = load_be64(present.data() + field::kAutoclear);
  if ((present_bits & autoclear::kBitmaps) != 0) {
    std::byte field[8];
    store_be64(field, present_bits & ~autoclear::kBitmaps);
    BB_CO_TRY(co_await metadata_.write_header_field(field::kAutoclear, field, sizeof(field)));
  }
  co_return co_await rewrite_without_bit_first(std::move(next));
}

Task<Result<void>> Change::rewrite_without_bit_first(Header next) {
  Header first = next;
  first.autoclear_features &= ~autoclear::kBitmaps;
  BB_CO_TRY(co_await metadata_.rewrite_header(std::move(first)));
  if ((next.autoclear_features & autoclear::kBitmaps) == 0) co_return Result<void>();
  co_return co_await metadata_.rewrite_header(std::move(next));
}

void Change::protect(const std::optional<BitmapsExtension>& old) {
  OverlapMap& map = metadata_.overlap_map();
  if (old) map.remove(overlap::kBitmapDirectory, old->directory_offset, old->directory_size);
  if (const auto& now = metadata_.header().bitmaps) {
    map.add(overlap::kBitmapDirectory, now->directory_offset, now->directory_size);
  }
}

void Change::free_left() {
  std::set<uint64_t> ours;
  for (const HostRange& range : placed_) ours.insert(range.host);
  for (const HostRange& range : left_) {
    // A table that was made by somebody else may say that anything is its own: what others are
    // known to use leaks rather.
    if (metadata_.overlap(range.host, range.bytes) != 0) continue;
    const auto next = ours.lower_bound(range.host);
    if (next != ours.end() && *next < range.host + range.bytes) continue;
    metadata_.free_later(range.host, range.bytes, FreeReason::kOther);
  }
}

Task<Result<void>> Change::commit() {
  const Header before = metadata_.header();
  const std::optional<BitmapsExtension> old = before.bitmaps;
  Header next = before;
  BB_CO_TRY(co_await write_directory(bitmaps, next));
  BB_CO_TRY(co_await metadata_.sync());
  // From here on the disk may refer to what is new: it stays counted whatever happens.
  added_.keep();
  if (auto done = co_await switch_header(std::move(next)); !done) {
    // The old header is whole again, if that is possible. If not, either directory is harmless:
    // the new one says that all is in use, and the old one is where flags are changed from now on.
    (void)co_await (in_one_write_ ? metadata_.rewrite_header(before)
                                  : rewrite_without_bit_first(before));
    protect(old);
    co_return done;
  }
  protect(old);
  if (old) {
    left_.push_back(HostRange{old->directory_offset,
                              align_up(old->directory_size, metadata_.geometry().cluster_size)});
  }
  std::vector<StoredBitmap> consistent;
  (void)serialise_directory(bitmaps);
  for (StoredBitmap& b : bitmaps) {
    b.flags_position += directory_;
    if (!b.in_use()) consistent.push_back(b);
  }
  auto told = co_await write_flags(metadata_.file(), consistent);
  free_left();
  // What goes wrong there is tried again with the next one.
  (void)co_await metadata_.write_back();
  co_return told;
}

}  // namespace

Task<Expected<void>> can_store_bitmap(Storage& file, const Header& header,
                                      const BitmapToStore& bitmap,
                                      std::vector<std::string> others) {
  BB_CO_TRY(may_store(header, bitmap));
  auto directory = co_await load_directory(file, header);
  if (!directory) co_return fail(std::move(directory).error());
  others.push_back(bitmap.name);
  std::set<std::string> known;
  for (const StoredBitmap& b : *directory) {
    if (b.name == bitmap.name) BB_CO_TRY(may_replace(b));
    known.insert(b.name);
  }
  for (std::string& name : others) {
    if (!known.insert(name).second) continue;
    StoredBitmap one;
    one.name = std::move(name);
    directory->push_back(std::move(one));
  }
  co_return fits(*directory);
}

Task<Expected<void>> store_bitmaps(Metadata& metadata, std::vector<BitmapToStore> bitmaps) {
  if (bitmaps.empty()) co_return Expected<void>();
  for (const BitmapToStore& bitmap : bitmaps) {
    if (const Expected<void> may = may_store(metadata.header(), bitmap); !may) {
      co_return fail(fmt::format("Bitmap '{}' doesn't satisfy the constraints: {}", bitmap.name,
                                 may.error().description));
    }
  }
  MutexGuard lock = co_await metadata.lock();
  if (metadata.failed()) co_return not_updated(Errno(ENOMEDIUM));
  if (auto ready = co_await metadata.prepare_for_writing(); !ready) {
    co_return not_updated(ready.error());
  }
  auto directory = co_await load_directory(metadata.file(), metadata.header());
  if (!directory) co_return fail(std::move(directory).error());
  Places known = places_of(*directory);
  BB_CO_TRY(names_differ(*directory, known));

  Change change(metadata);
  change.bitmaps = std::move(*directory);
  // All that can be refused is refused before anything is written.
  std::vector<std::size_t> places;
  std::set<std::size_t> taken;
  for (const BitmapToStore& bitmap : bitmaps) {
    const auto [at, is_new] = known.emplace(bitmap.name, change.bitmaps.size());
    if (is_new) {
      if (bitmap.bits == nullptr) {
        co_return fail(fmt::format("Dirty bitmap '{}' not found", bitmap.name));
      }
      change.bitmaps.emplace_back().name = bitmap.name;
    }
    const std::size_t place = at->second;
    const StoredBitmap& there = change.bitmaps[place];
    BB_CO_TRY(may_replace(there));
    if (bitmap.bits == nullptr && there.in_use() && !bitmap.in_use && !bitmap.stored_bits_hold) {
      // Bits that are not known to be right do not become right by this.
      co_return fail(fmt::format("Bitmap '{}' is inconsistent and cannot be used", bitmap.name));
    }
    if (!taken.insert(place).second) {
      co_return fail(fmt::format("Bitmap already exists: {}", bitmap.name));
    }
    places.push_back(place);
  }
  BB_CO_TRY(fits(change.bitmaps));

  for (std::size_t i = 0; i < bitmaps.size(); ++i) {
    const BitmapToStore& bitmap = bitmaps[i];
    StoredBitmap& entry = change.bitmaps[places[i]];
    entry.flags &= bitmap_flag::kExtraCompatible;
    if (bitmap.enabled) entry.flags |= bitmap_flag::kAuto;
    if (bitmap.in_use) entry.flags |= bitmap_flag::kInUse;
    if (bitmap.bits == nullptr) continue;
    if (entry.table_offset != 0) co_await change.leave(entry);
    auto table = co_await change.write(*bitmap.bits, bitmap.granularity_bits);
    if (!table) {
      co_await change.give_up();
      co_return fail(fmt::format("Failed to write bitmap '{}' to file: {}", bitmap.name,
                                 strerror_text(table.error())));
    }
    entry.granularity_bits = bitmap.granularity_bits;
    entry.table_offset = table->offset;
    entry.table_entries = static_cast<uint32_t>(table->entries.size());
  }
  if (auto done = co_await change.commit(); !done) {
    co_await change.give_up();
    co_return not_updated(done.error());
  }
  co_return Expected<void>();
}

Task<Expected<void>> remove_bitmap(Metadata& metadata, std::string name) {
  MutexGuard lock = co_await metadata.lock();
  if (!metadata.header().bitmaps) co_return Expected<void>();
  if (metadata.failed()) co_return not_updated(Errno(ENOMEDIUM));
  if (auto ready = co_await metadata.prepare_for_writing(); !ready) {
    co_return not_updated(ready.error());
  }
  auto directory = co_await load_directory(metadata.file(), metadata.header());
  if (!directory) co_return fail(std::move(directory).error());
  Change change(metadata);
  for (StoredBitmap& bitmap : *directory) {
    if (bitmap.name == name) {
      co_await change.leave(bitmap);
    } else {
      change.bitmaps.push_back(std::move(bitmap));
    }
  }
  if (change.bitmaps.size() == directory->size()) co_return Expected<void>();
  if (auto done = co_await change.commit(); !done) {
    co_await change.give_up();
    co_return not_updated(done.error());
  }
  co_return Expected<void>();
}

Task<Expected<void>> change_bitmap_flags(Metadata& metadata, std::vector<FlagChange> changes) {
  MutexGuard lock = co_await metadata.lock();
  if (metadata.failed()) co_return not_updated(Errno(ENOMEDIUM));
  if (auto ready = co_await metadata.prepare_for_writing(); !ready) {
    co_return not_updated(ready.error());
  }
  auto directory = co_await load_directory(metadata.file(), metadata.header());
  if (!directory) co_return fail(std::move(directory).error());
  const Places places = places_of(*directory);
  std::vector<StoredBitmap> written;
  bool becomes_right = false;
  for (const auto& [name, set, clear] : changes) {
    BB_ASSERT(((set | clear) & ~(bitmap_flag::kInUse | bitmap_flag::kAuto)) == 0);
    const auto at = places.find(name);
    if (at == places.end()) co_return fail(fmt::format("Dirty bitmap '{}' not found", name));
    StoredBitmap& bitmap = (*directory)[at->second];
    const bool was_in_use = bitmap.in_use();
    bitmap.flags = (bitmap.flags | set) & ~clear;
    // One that says it is right has to reach as far as the disk does: nobody could open the image.
    if (!bitmap.in_use() &&
        bitmap.table_entries != bitmap_table_entries(metadata.header(), bitmap.granularity_bits)) {
      co_return fail(fmt::format("Bitmap '{}' is inconsistent and cannot be used", name));
    }
    becomes_right = becomes_right || (was_in_use && !bitmap.in_use());
    written.push_back(bitmap);
  }
  if (becomes_right) {
    if (auto done = co_await metadata.sync(); !done) co_return not_updated(done.error());
  }
  if (auto done = co_await write_flags(metadata.file(), written); !done) {
    co_return not_updated(done.error());
  }
  co_return Expected<void>();
}

}  // namespace blockbed::qcow2
