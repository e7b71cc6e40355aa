#include "block/graph/bitmap.h"

#include <algorithm>
#include <array>
#include <bit>
#include <new>
#include <utility>

#include "block/runtime/assert.h"

namespace blockbed {

namespace {

constexpr uint64_t words_of(uint64_t bits) { return bits / 64 + (bits % 64 != 0 ? 1 : 0); }
uint64_t ones(uint64_t word) { return static_cast<uint64_t>(std::popcount(word)); }

// The bits of word begin / 64 that lie in [begin, end).
uint64_t mask_of(uint64_t begin, uint64_t end) {
  const uint64_t bits = std::min<uint64_t>(64 - begin % 64, end - begin);
  return (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << (begin % 64);
}

}  // namespace

Bitmap::Level::Level(uint64_t words_needed)
    : words(static_cast<uint64_t*>(std::calloc(words_needed, sizeof(uint64_t)))),
      size(words_needed) {
  if (words == nullptr) throw std::bad_alloc();
}

Bitmap::Bitmap(uint64_t bits) : bits_(bits) {
  BB_ASSERT(bits <= kMaxBits);
  uint64_t words = bits;
  do {
    words = std::max<uint64_t>(words_of(words), 1);
    levels_.emplace_back(words);
  } while (words > 1);
}

Bitmap::Bitmap(const Bitmap& other) : Bitmap(other.bits_) { take_words(other); }

Bitmap& Bitmap::operator=(const Bitmap& other) {
  if (this != &other) *this = Bitmap(other);
  return *this;
}

// Words [first_word, last_word] of the bits are not zero.
void Bitmap::raise(uint64_t first_word, uint64_t last_word) {
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    bool changed = false;
    for (uint64_t at = first_word; at <= last_word;) {
      uint64_t& word = levels_[level][at / 64];
      const uint64_t mask = mask_of(at, last_word + 1);
      changed |= (word & mask) != mask;
      word |= mask;
      at += 64 - at % 64;
    }
    // What is summarised here was so above too.
    if (!changed) return;
    first_word /= 64;
    last_word /= 64;
  }
}

void Bitmap::set(uint64_t begin, uint64_t end) {
  BB_ASSERT(begin <= end && end <= bits_);
  if (begin == end) return;
  bool changed = false;
  for (uint64_t at = begin; at < end; at += 64 - at % 64) {
    uint64_t& word = levels_[0][at / 64];
    const uint64_t added = mask_of(at, end) & ~word;
    if (added == 0) continue;
    count_ += ones(added);
    word |= added;
    changed = true;
  }
  if (changed) raise(begin / 64, (end - 1) / 64);
}

void Bitmap::clear(uint64_t begin, uint64_t end) {
  BB_ASSERT(begin <= end && end <= bits_);
  if (begin == end || count_ == 0) return;
  if (begin == 0 && end == bits_) return clear();
  for (uint64_t at = begin; at < end; at += 64 - at % 64) {
    uint64_t& word = levels_[0][at / 64];
    const uint64_t removed = mask_of(at, end) & word;
    if (removed == 0) continue;
    count_ -= ones(removed);
    word &= ~removed;
  }
  // At each level the words at both ends may keep bits of others; those in between are zero.
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    const Level& below = levels_[level - 1];
    const uint64_t first = begin / 64;
    const uint64_t last = (end - 1) / 64;
    begin = below[first] == 0 ? first : first + 1;
    end = below[last] == 0 ? last + 1 : last;
    if (begin >= end) return;
    for (uint64_t at = begin; at < end; at += 64 - at % 64) {
      levels_[level][at / 64] &= ~mask_of(at, end);
    }
  }
}

void Bitmap::clear() { *this = Bitmap(bits_); }

void Bitmap::resize(uint64_t bits) {
  if (bits == bits_) return;
  if (bits < bits_) clear(bits, bits_);
  Bitmap resized(bits);
  resized.take_words(*this);
  *this = std::move(resized);
}

void Bitmap::merge(const Bitmap& other) {
  BB_ASSERT(bits_ == other.bits_);
  if (this != &other) take_words(other);
}

// The words of both lie all over the memory: a handful is asked for before the first is merged.
void Bitmap::take_words(const Bitmap& other) {
  std::array<uint64_t, 32> batch;
  for (uint64_t next = other.next_word(0); next != kNone;) {
    std::size_t found = 0;
    for (; found < batch.size() && next != kNone; next = other.next_word(next + 1)) {
      __builtin_prefetch(&other.levels_[0][next]);
      __builtin_prefetch(&levels_[0][next], 1);
      batch[found++] = next;
    }
    for (const uint64_t at : std::span(batch).first(found)) {
      const uint64_t added = other.levels_[0][at] & ~levels_[0][at];
      if (added == 0) continue;
      count_ += ones(added);
      levels_[0][at] |= added;
      raise(at, at);
    }
  }
}

uint64_t Bitmap::next_word(uint64_t from) const {
  if (levels_.size() > 1) return find_set(1, from);
  return from == 0 && levels_[0][0] != 0 ? 0 : kNone;
}

// Memory that nobody has touched is not read: to write there at once costs half as much.
uint64_t Bitmap::word(uint64_t index) const {
  const bool zero = levels_.size() > 1 && (levels_[1][index / 64] >> (index % 64) & 1) == 0;
  return zero ? 0 : levels_[0][index];
}

void Bitmap::set_words(uint64_t first, std::span<const uint64_t> words) {
  BB_ASSERT(first % 64 == 0);
  for (const uint64_t given : words) {
    if (first >= bits_) return;
    const uint64_t index = first / 64;
    const uint64_t was = word(index);
    const uint64_t now = given & mask_of(first, bits_);
    if (now != 0 && now != was) {
      count_ += ones(now) - ones(was);
      levels_[0][index] = now;
      if (was == 0) raise(index, index);
    } else if (now == 0 && was != 0) {
      clear(first, std::min(first + 64, bits_));
    }
    first += 64;
  }
}

uint64_t Bitmap::find_set(std::size_t level, uint64_t from) const {
  const uint64_t index = from / 64;
  if (index >= levels_[level].size) return kNone;
  if (const uint64_t here = levels_[level][index] >> (from % 64); here != 0) {
    return from + static_cast<uint64_t>(std::countr_zero(here));
  }
  if (level + 1 == levels_.size()) return kNone;
  const uint64_t next = find_set(level + 1, index + 1);
  if (next == kNone) return kNone;
  return next * 64 + static_cast<uint64_t>(std::countr_zero(levels_[level][next]));
}

uint64_t Bitmap::next_set(uint64_t begin, uint64_t end) const {
  BB_ASSERT(end <= bits_);
  return begin >= end ? end : std::min(find_set(0, begin), end);
}

uint64_t Bitmap::next_clear(uint64_t begin, uint64_t end) const {
  BB_ASSERT(end <= bits_);
  for (uint64_t at = begin; at < end; at += 64 - at % 64) {
    if (const uint64_t clear = ~levels_[0][at / 64] >> (at % 64); clear != 0) {
      return std::min(end, at + static_cast<uint64_t>(std::countr_zero(clear)));
    }
  }
  return end;
}

}  // namespace blockbed
