#include "block/filters/copy_bitmap.h"

#include <algorithm>
#include <bit>

#include "block/runtime/assert.h"

namespace blockbed {

CopyBitmap::CopyBitmap(uint64_t clusters) : clusters_(clusters) {
  BB_ASSERT(clusters <= kMaxClusters);
  words_.resize((clusters + 63) / 64);
}

void CopyBitmap::set(uint64_t begin, uint64_t end) { assign<true>(begin, end); }
void CopyBitmap::clear(uint64_t begin, uint64_t end) { assign<false>(begin, end); }
uint64_t CopyBitmap::next_set(uint64_t begin, uint64_t end) const { return next<true>(begin, end); }
uint64_t CopyBitmap::next_clear(uint64_t begin, uint64_t end) const {
  return next<false>(begin, end);
}

template <bool kSet>
void CopyBitmap::assign(uint64_t begin, uint64_t end) {
  BB_ASSERT(begin <= end && end <= clusters_);
  for (uint64_t at = begin; at < end;) {
    uint64_t& word = words_[at / 64];
    const uint64_t bits = std::min<uint64_t>(64 - at % 64, end - at);
    const uint64_t mask = (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << (at % 64);
    count_ -= static_cast<uint64_t>(std::popcount(word));
    word = kSet ? word | mask : word & ~mask;
    count_ += static_cast<uint64_t>(std::popcount(word));
    at += bits;
  }
}

template <bool kSet>
uint64_t CopyBitmap::next(uint64_t begin, uint64_t end) const {
  BB_ASSERT(end <= clusters_);
  for (uint64_t at = begin; at < end;) {
    uint64_t word = words_[at / 64];
    if (!kSet) word = ~word;
    word >>= at % 64;
    if (word != 0) return std::min(end, at + static_cast<uint64_t>(std::countr_zero(word)));
    at += 64 - at % 64;
  }
  return end;
}

}  // namespace blockbed
