#include "fuzz/qcow2_mutator.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/geometry.h"
#include "block/formats/qcow2/header.h"
#include "block/sim/sim_random.h"
#include "fuzz/image_and_requests.h"

extern "C" std::size_t LLVMFuzzerMutate(uint8_t* data, std::size_t size, std::size_t most);

namespace blockbed::fuzz {

namespace {

using namespace qcow2;

struct Field {
  uint16_t offset;
  uint8_t bytes;
};
constexpr Field kFields[] = {{8, 8},  {16, 4}, {20, 4}, {24, 8},  {32, 4}, {36, 4},
                             {40, 8}, {48, 8}, {56, 4}, {60, 4},  {64, 8}, {72, 8},
                             {80, 8}, {88, 8}, {96, 4}, {100, 4}, {104, 1}};
constexpr uint16_t kClusterBits = 20;
constexpr uint16_t kL1Size = 36;
constexpr uint16_t kRefcountOrder = 96;
constexpr uint16_t kHeaderLength = 100;
constexpr std::size_t kShortHeader = 104;
constexpr uint32_t kExtensions[] = {0,          0xE2792ACA, 0x6803f857, 0x0537be77,
                                    0x23852875, 0x44415441, 0x12345678};
// So many places are enough to choose from.
constexpr std::size_t kMostPlaces = 512;

// One after another with the same lists: growing them anew cost an eighth of all the time.
class Mutation {
 public:
  std::size_t run(uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
    data_ = data;
    size_ = size;
    most_ = most;
    chance_ = sim::SimRandom(seed, 401);
    cluster_ = 512;
    if (size_ < kShortHeader) {
      const std::size_t wanted = std::min<std::size_t>(most_, 4096);
      if (wanted < kShortHeader) return LLVMFuzzerMutate(data_, size_, most_);
      std::memset(data_ + size_, 0, wanted - size_);
      size_ = wanted;
    }
    if (chance_.percent(25)) {
      size_ = LLVMFuzzerMutate(data_, size_, most_);
      if (size_ < kShortHeader) return size_;
    } else {
      survey();
      const uint64_t changes = 1 + chance_.below(3);
      for (uint64_t i = 0; i < changes; ++i) change_something();
    }
    repair_header();
    return size_;
  }

 private:
  struct Place {
    std::size_t offset;
    uint8_t bytes;
  };

  uint64_t load(std::size_t offset, uint8_t bytes) const {
    uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | data_[offset + i];
    return value;
  }
  void store(std::size_t offset, uint8_t bytes, uint64_t value) {
    if (offset + bytes > size_) return;
    for (std::size_t i = bytes; i-- > 0; value >>= 8) {
      data_[offset + i] = static_cast<uint8_t>(value);
    }
  }
  uint64_t field(uint16_t offset, uint8_t bytes) const { return load(offset, bytes); }

  void add(std::vector<Place>& places, uint64_t offset, uint8_t bytes) {
    if (offset < size_ && size_ - offset >= bytes && places.size() < kMostPlaces) {
      places.push_back({static_cast<std::size_t>(offset), bytes});
    }
  }
  // Entries of a table, and the clusters that they name.
  void survey_table(std::vector<Place>& places, uint64_t offset, uint64_t entries, uint32_t step,
                    std::vector<uint64_t>* targets) {
    for (uint64_t i = 0; i < std::min<uint64_t>(entries, kMostPlaces); ++i) {
      const uint64_t at = offset + i * step;
      if (at >= size_ || size_ - at < 8) break;
      add(places, at, 8);
      if (step == 16) add(places, at + 8, 8);
      const uint64_t host = load(at, 8) & kOffsetMask;
      if (host == 0 || host >= size_) continue;
      interesting_.push_back(host);
      if (targets != nullptr && targets->size() < 32) targets->push_back(host);
    }
  }

  void survey() {
    const auto bits = static_cast<uint32_t>(
        std::clamp<uint64_t>(field(kClusterBits, 4), kMinClusterBits, kMaxClusterBits));
    cluster_ = uint64_t{1} << bits;
    const bool extended = field(4, 4) >= 3 && (field(72, 8) & incompatible::kExtendedL2) != 0;
    const uint32_t entry = extended ? 16 : 8;
    const uint64_t l1 = field(40, 8);
    const uint64_t refcounts = field(48, 8);
    const uint64_t snapshots = field(64, 8);
    interesting_ = {0, cluster_, l1, refcounts, snapshots, size_, align_up(size_, cluster_)};
    for (auto* list :
         {&l1_, &l2_, &refcount_table_, &blocks_, &snapshots_, &bitmaps_, &extension_fields_}) {
      list->clear();
    }
    extensions_.clear();
    targets_.clear();
    survey_table(l1_, l1, field(kL1Size, 4), 8, &targets_);
    for (const uint64_t table : targets_) {
      survey_table(l2_, table, std::min<uint64_t>(cluster_ / entry, 64), entry, nullptr);
    }
    targets_.clear();
    survey_table(refcount_table_, refcounts, field(56, 4) * (cluster_ / 8), 8, &targets_);
    for (const uint64_t block : targets_) {
      for (uint64_t i = 0; i < std::min<uint64_t>(cluster_, 64); ++i) add(blocks_, block + i, 1);
    }
    survey_snapshots(snapshots, field(60, 4));
    survey_extensions();
  }

  void survey_snapshots(uint64_t offset, uint64_t count) {
    for (uint64_t i = 0; i < std::min<uint64_t>(count, 16); ++i) {
      if (offset >= size_ || size_ - offset < 40) break;
      static constexpr Field kEntry[] = {{0, 8},  {8, 4},  {12, 2}, {14, 2}, {16, 4}, {20, 4},
                                         {24, 8}, {32, 4}, {36, 4}, {40, 8}, {48, 8}, {56, 8}};
      for (const Field& f : kEntry) add(snapshots_, offset + f.offset, f.bytes);
      const uint64_t l1 = load(offset, 8);
      interesting_.push_back(l1);
      survey_table(l1_, l1, std::min<uint64_t>(load(offset + 8, 4), 16), 8, nullptr);
      offset = align_up(
          offset + 40 + load(offset + 36, 4) + load(offset + 12, 2) + load(offset + 14, 2), 8);
    }
  }

  void survey_extensions() {
    uint64_t at = field(4, 4) == 2 ? 72 : field(kHeaderLength, 4);
    for (int i = 0; i < 16 && at + 8 <= std::min<uint64_t>(size_, cluster_); ++i) {
      const uint64_t type = load(at, 4);
      const uint64_t length = load(at + 4, 4);
      extensions_.push_back(at);
      add(extension_fields_, at, 4);
      add(extension_fields_, at + 4, 4);
      for (uint64_t b = 0; b < std::min<uint64_t>(length, 24); b += 8) {
        add(extension_fields_, at + 8 + b, 8);
      }
      if (type == 0x23852875 && length >= 24 && at + 32 <= size_) {
        survey_bitmaps(load(at + 24, 8), load(at + 8, 4));
      }
      if (type == 0) break;
      at = align_up(at + 8 + length, 8);
    }
  }

  void survey_bitmaps(uint64_t offset, uint64_t count) {
    for (uint64_t i = 0;
         i < std::min<uint64_t>(count, 16) && offset < size_ && size_ - offset >= 24; ++i) {
      static constexpr Field kEntry[] = {{0, 8},  {8, 4},  {12, 4}, {16, 1},
                                         {17, 1}, {18, 2}, {20, 4}};
      for (const Field& f : kEntry) add(bitmaps_, offset + f.offset, f.bytes);
      const uint64_t table = load(offset, 8);
      interesting_.push_back(table);
      survey_table(bitmaps_, table, std::min<uint64_t>(load(offset + 8, 4), 16), 8, nullptr);
      offset = align_up(offset + 24 + load(offset + 18, 2) + load(offset + 20, 4), 8);
    }
  }

  template <class T>
  const T& pick(const std::vector<T>& choices) {
    return choices[chance_.below(choices.size())];
  }

  uint64_t pointer() {
    uint64_t value = pick(interesting_);
    if (chance_.percent(40)) value = chance_.below(size_ / cluster_ + 3) * cluster_;
    switch (chance_.below(14)) {
      case 0:
        return value + 1;
      case 1:
        return value + 512;
      case 2:
        return value - 8;
      case 3:
        return value + cluster_;
      case 4:
        return value - cluster_;
      case 5:
        return value | uint64_t{1} << (48 + chance_.below(16));
      case 6:
        return (uint64_t{1} << 56) - cluster_;
      case 7:
        return uint64_t{1} << (9 + chance_.below(55));
      default:
        return value;
    }
  }
  uint64_t number(uint64_t old, uint8_t bytes) {
    const uint64_t bits = bytes * 8u;
    switch (chance_.below(9)) {
      case 0:
        return old + 1;
      case 1:
        return old - 1;
      case 2:
        return 0;
      case 3:
        return UINT64_MAX;
      case 4:
        return old ^ uint64_t { 1 } << chance_.below(bits);
      case 5:
        return uint64_t{1} << chance_.below(bits);
      case 6:
        return chance_.below(64);
      case 7:
        return pointer();
      default:
        return chance_.next();
    }
  }
  uint64_t entry(uint64_t old) {
    switch (chance_.below(8)) {
      case 0:
        return old ^ kEntryCopied;
      case 1:
        return old ^ kEntryZero;
      case 2:
        // Compressed data: a place, and up to so many sectors.
        return kEntryCompressed | pointer() | chance_.below(16) << (54 + chance_.below(8));
      case 3:
        return old ^ uint64_t { 1 } << chance_.below(64);
      case 4:
        return chance_.percent(50) ? 0 : kEntryZero;
      default:
        return pointer() | (chance_.percent(60) ? kEntryCopied : 0) |
               (chance_.percent(10) ? kEntryZero : 0);
    }
  }

  void change_something() {
    const std::vector<Place>* const tables[] = {&l1_,     &l2_,        &l2_,     &refcount_table_,
                                                &blocks_, &snapshots_, &bitmaps_};
    const uint64_t what = chance_.below(12);
    if (what < std::size(tables)) {
      if (tables[what]->empty()) return change_field();
      const Place place = pick(*tables[what]);
      const uint64_t old = load(place.offset, place.bytes);
      const bool pointers = place.bytes == 8 && chance_.percent(80);
      return store(place.offset, place.bytes, pointers ? entry(old) : number(old, place.bytes));
    }
    if (what == 7) return copy_entry();
    if (what == 8) return change_extension();
    if (what == 9) return change_length();
    change_field();
  }

  void change_field() {
    const Field& f = kFields[chance_.below(std::size(kFields))];
    const uint64_t old = field(f.offset, f.bytes);
    const bool place = f.offset == 8 || f.offset == 40 || f.offset == 48 || f.offset == 64;
    store(f.offset, f.bytes, place && chance_.percent(70) ? pointer() : number(old, f.bytes));
  }
  // Two entries refer to the same.
  void copy_entry() {
    const std::vector<Place>& places = chance_.percent(50) && !l1_.empty() ? l1_ : l2_;
    if (places.size() < 2) return;
    const Place from = pick(places);
    store(pick(places).offset, 8, load(from.offset, 8));
  }
  void change_extension() {
    if (extensions_.empty() || chance_.percent(60)) {
      if (extension_fields_.empty()) return;
      const Place place = pick(extension_fields_);
      return store(place.offset, place.bytes, number(load(place.offset, place.bytes), place.bytes));
    }
    const uint64_t at = pick(extensions_);
    store(at, 4, kExtensions[chance_.below(std::size(kExtensions))]);
    if (chance_.percent(50)) store(at + 4, 4, chance_.below(64));
  }
  void change_length() {
    const std::size_t target =
        chance_.percent(50) ? size_ - std::min<std::size_t>(size_, chance_.below(2 * cluster_))
                            : std::min<std::size_t>(most_, size_ + chance_.below(2 * cluster_));
    if (target < kShortHeader) return;
    if (target > size_) std::memset(data_ + size_, 0, target - size_);
    size_ = target;
  }

  void repair_header() {
    store(0, 4, kMagic);
    const uint64_t version = field(4, 4);
    if (version != 2 && version != 3 && !chance_.percent(2)) store(4, 4, 2 + chance_.below(2));
    if (chance_.percent(4)) return;
    const uint64_t bits = field(kClusterBits, 4);
    if (bits < kMinClusterBits || bits > kMaxClusterBits) store(kClusterBits, 4, 9 + bits % 4);
    if (field(32, 4) > 1) store(32, 4, 0);
    // Tables of megabytes cost time and find nothing that small ones do not.
    if (field(kL1Size, 4) > 512 && !chance_.percent(1)) store(kL1Size, 4, field(kL1Size, 4) % 256);
    const uint64_t most_clusters = std::max<uint64_t>(1, 4096 >> field(kClusterBits, 4));
    if (field(56, 4) > most_clusters && !chance_.percent(1)) store(56, 4, most_clusters);
    if (field(60, 4) > 8 && !chance_.percent(2)) store(60, 4, field(60, 4) % 4);
    // The disk must fit what the table says.
    const bool extended = field(4, 4) >= 3 && (field(72, 8) & incompatible::kExtendedL2) != 0;
    const uint64_t coverage = uint64_t{1} << (2 * field(kClusterBits, 4) - (extended ? 4 : 3));
    const uint64_t fits = field(kL1Size, 4) * coverage;
    if (field(24, 8) > fits && !chance_.percent(5)) store(24, 8, fits);
    if (field(4, 4) < 3) return;
    if ((field(72, 8) & ~incompatible::kKnown) != 0)
      store(72, 8, field(72, 8) & incompatible::kKnown);
    if (extended && field(kClusterBits, 4) < kMinExtendedClusterBits) {
      store(72, 8, field(72, 8) & ~incompatible::kExtendedL2);
    }
    if (field(kRefcountOrder, 4) > kMaxRefcountOrder)
      store(kRefcountOrder, 4, field(kRefcountOrder, 4) % 7);
    const uint64_t length = field(kHeaderLength, 4);
    if (length != 104 && length != 112 && !chance_.percent(5)) store(kHeaderLength, 4, 112);
    const bool other_type = size_ > 104 && data_[104] != 0;
    if (other_type != ((field(72, 8) & incompatible::kCompression) != 0)) {
      if (other_type) data_[104] = 1;
      store(72, 8,
            other_type ? field(72, 8) | incompatible::kCompression
                       : field(72, 8) & ~incompatible::kCompression);
    }
  }

  uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t most_ = 0;
  sim::SimRandom chance_{0};
  uint64_t cluster_ = 512;
  std::vector<uint64_t> interesting_;
  std::vector<Place> l1_, l2_, refcount_table_, blocks_, snapshots_, bitmaps_, extension_fields_;
  std::vector<uint64_t> extensions_;
  // What the tables of one kind name.
  std::vector<uint64_t> targets_;
};

}  // namespace

std::size_t mutate_image(uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  static Mutation mutation;
  return mutation.run(data, size, most, seed);
}

std::size_t mutate_image_and_requests(uint8_t* data, std::size_t size, std::size_t most,
                                      unsigned seed) {
  constexpr std::size_t kTail = kMostRequests * kRequestBytes + 1;
  sim::SimRandom chance(seed, 402);
  const ImageAndRequests input = split_input(std::span(data, size));
  std::vector<uint8_t> tail(input.requests.begin(), input.requests.end());
  std::size_t image = input.image.size();
  if (most <= kTail + kShortHeader) return LLVMFuzzerMutate(data, size, most);
  image = std::min(image, most - kTail);
  // Requests change more often than the image they go to.
  if (image < kShortHeader || chance.percent(35)) {
    image = mutate_image(data, image, most - kTail, seed);
  } else {
    for (uint64_t i = 1 + chance.below(3); i > 0; --i) {
      const std::size_t count = tail.size() / kRequestBytes;
      const std::size_t at = chance.below(count + 1) * kRequestBytes;
      const auto place = tail.begin() + static_cast<std::ptrdiff_t>(at);
      if (at < tail.size() && chance.percent(60)) {
        tail[at + chance.below(kRequestBytes)] = static_cast<uint8_t>(chance.next());
      } else if (at < tail.size() && chance.percent(30)) {
        tail.erase(place, place + kRequestBytes);
      } else if (count + 1 < kMostRequests) {
        uint8_t request[kRequestBytes];
        for (uint8_t& byte : request) byte = static_cast<uint8_t>(chance.next());
        if (chance.percent(60)) request[1] = 0;
        tail.insert(place, request, request + kRequestBytes);
      }
    }
  }
  std::copy(tail.begin(), tail.end(), data + image);
  image += tail.size();
  data[image++] = static_cast<uint8_t>(tail.size() / kRequestBytes);
  return image;
}

}  // namespace blockbed::fuzz
