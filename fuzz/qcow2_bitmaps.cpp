// Persistent bitmaps of the input: its directory and bits are read, its bitmaps are marked in use
// as by the first write, then one is stored, others are removed and changed, as the last byte says.
// What was stored is read again as it was, and an image that was clean is so afterwards.
#include <algorithm>
#include <bit>

#include "block/formats/qcow2/bitmap_store.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/open.h"
#include "fuzz/memory_image.h"
#include "fuzz/qcow2_mutator.h"
#include "fuzz/qcow2_requests.h"

namespace {

using namespace blockbed;
using namespace blockbed::fuzz;
using namespace blockbed::qcow2;

// Longer disks are not tracked: their bits are many, and no different.
constexpr uint64_t kMostBits = 1 << 14;
constexpr uint64_t kBackingBytes = 40 << 10;

uint64_t bits_of(const Header& header, uint8_t granularity_bits) {
  return (header.size >> granularity_bits) +
         (header.size % (uint64_t{1} << granularity_bits) != 0 ? 1 : 0);
}

// A bit a byte.
class Bits final : public BitmapSource, public BitmapReceiver {
 public:
  explicit Bits(uint64_t size) : bits_(size) {}
  bool operator==(const Bits& other) const { return bits_ == other.bits_; }

  void fill(uint8_t pattern) {
    for (std::size_t i = 0; i < bits_.size(); ++i) bits_[i] = (i / 7 & pattern) != 0 ? 1 : 0;
  }
  uint64_t next_set(uint64_t first) const override {
    if (first >= bits_.size()) return UINT64_MAX;
    const auto found =
        std::find(bits_.begin() + static_cast<std::ptrdiff_t>(first), bits_.end(), 1);
    return found == bits_.end() ? UINT64_MAX : static_cast<uint64_t>(found - bits_.begin());
  }
  void give(uint64_t first, std::span<std::byte> bytes) const override {
    std::ranges::fill(bytes, std::byte{0xff});
    for (uint64_t i = 0; i < bytes.size() * 8 && first + i < bits_.size(); ++i) {
      if (bits_[first + i] == 0) bytes[i / 8] &= ~static_cast<std::byte>(1u << (i % 8));
    }
  }
  void take(uint64_t first, std::span<const std::byte> bytes) override {
    BB_ASSERT(first % 8 == 0 && first >= taken_);
    taken_ = first + bytes.size() * 8;
    for (uint64_t i = 0; i < bytes.size() * 8; ++i) {
      const bool one = (bytes[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0};
      BB_ASSERT(!one || first + i < bits_.size());
      if (one) bits_[first + i] = 1;
    }
  }
  void take_ones(uint64_t first, uint64_t count) override {
    BB_ASSERT(first >= taken_ && count <= bits_.size() && first <= bits_.size() - count);
    taken_ = first + count;
    std::fill_n(bits_.begin() + static_cast<std::ptrdiff_t>(first), count, 1);
  }

 private:
  std::vector<uint8_t> bits_;
  uint64_t taken_ = 0;
};

// Nothing: it cannot be read, or is too long.
Task<std::optional<Bits>> load(FuzzStorage& file, const Header& header,
                               const StoredBitmap& bitmap) {
  const uint64_t count = bits_of(header, bitmap.granularity_bits);
  if (!bitmap.usable() || count > kMostBits) co_return std::nullopt;
  Bits bits(count);
  if (!co_await load_bits(file, header, bitmap, bits)) co_return std::nullopt;
  co_return bits;
}

// Only flags change: the directory is what it was, with all of its bitmaps in use.
Task<void> mark(FuzzStorage& file, const Header& header, const std::vector<StoredBitmap>& bitmaps) {
  const std::size_t before = file.bytes().size();
  if (!co_await mark_in_use(file, bitmaps)) co_return;
  const auto marked = co_await load_directory(file, header);
  BB_ASSERT(file.bytes().size() == before);
  BB_ASSERT(marked && marked->size() == bitmaps.size());
  for (std::size_t i = 0; i < marked->size(); ++i) {
    const StoredBitmap& now = (*marked)[i];
    const StoredBitmap& then = bitmaps[i];
    BB_ASSERT(now.name == then.name && now.table_offset == then.table_offset);
    BB_ASSERT(now.flags == (then.flags | bitmap_flag::kInUse));
  }
}

// True: all of it succeeded.
Task<bool> change(FuzzStorage& file, Image& image, const std::vector<StoredBitmap>& bitmaps,
                  uint8_t what) {
  if (!co_await image.begin_writing()) co_return false;
  Metadata& metadata = image.metadata();
  BitmapToStore stored;
  stored.name = !bitmaps.empty() && what % 2 == 1 ? bitmaps.back().name : "fuzz";
  stored.granularity_bits = 9 + what / 2 % 4;
  stored.enabled = what % 3 == 0;
  stored.in_use = what % 5 == 0;
  const uint64_t count = bits_of(image.header(), stored.granularity_bits);
  if (count > kMostBits) co_return false;
  Bits bits(count);
  bits.fill(what);
  stored.bits = &bits;
  std::vector<BitmapToStore> list;
  list.push_back(stored);
  const bool possible = (co_await can_store_bitmap(file, image.header(), stored, {})).has_value();
  const bool done = (co_await store_bitmaps(metadata, list)).has_value();
  // A wish that is granted must not be one that was said to be impossible.
  BB_ASSERT(possible || !done);
  if (!done) co_return false;
  const auto now = co_await load_directory(file, image.header());
  BB_ASSERT(now);
  const auto found = std::ranges::find(*now, stored.name, &StoredBitmap::name);
  BB_ASSERT(found != now->end() && found->in_use() == stored.in_use);
  if (!stored.in_use) {
    const auto read = co_await load(file, image.header(), *found);
    BB_ASSERT(read && *read == bits);
  }
  if (!bitmaps.empty() && (what & 0x40) != 0) {
    if (!co_await remove_bitmap(metadata, bitmaps.front().name)) co_return false;
  }
  if ((what & 0x80) != 0 && bitmaps.size() > 1) {
    const std::string name = bitmaps[1].name;
    if (!co_await change_bitmap_flags(metadata,
                                      {{name, bitmap_flag::kInUse, bitmap_flag::kAuto}})) {
      co_return false;
    }
  }
  co_return true;
}

Task<void> use_bitmaps(FuzzEnv& env, FuzzStorage& file, uint8_t what) {
  const bool clean = co_await clean_before(file);
  auto header = co_await read_header(file, true);
  if (!header || header->size > kMaxLength || header->external_data() ||
      header->has(incompatible::kDirty)) {
    co_return;
  }
  const auto bitmaps = co_await load_directory(file, *header);
  if (!bitmaps) co_return;
  for (const StoredBitmap& bitmap : *bitmaps) (void)co_await load(file, *header, bitmap);
  if (what % 4 == 3) co_await mark(file, *header, *bitmaps);

  FuzzBacking backing(header->backing_name.empty() ? 0 : kBackingBytes);
  MetadataOptions options;
  options.writable = true;
  Image image(env, file, nullptr, backing, std::move(*header), options);
  if (!co_await image.open()) co_return;
  const bool changed = co_await change(file, image, *bitmaps, what);
  const bool closed = (co_await image.close()).has_value();
  if (!clean) co_return;
  const auto after = co_await judge(file);
  if (!after && file.was_full()) co_return;
  BB_ASSERT(after && after->corruptions == 0 && after->check_errors == 0);
  BB_ASSERT(after->leaks == 0 || !changed || !closed || file.was_full());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static FuzzEnv env;
  FuzzStorage file(std::span(data, size));
  env.run(use_bitmaps(env, file, size == 0 ? 0 : data[size - 1]));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  const std::size_t changed = mutate_image(data, size, most, seed);
  if (changed > 0 && seed % 4 == 0) data[changed - 1] = static_cast<uint8_t>(seed >> 8);
  return changed;
}
