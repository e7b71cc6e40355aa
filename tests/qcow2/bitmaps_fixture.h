// Bits in memory, for tests of persistent bitmaps.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "block/formats/qcow2/bitmap_store.h"

namespace blockbed::qcow2::test {

class PlainBits final : public BitmapSource, public BitmapReceiver {
 public:
  explicit PlainBits(uint64_t size) : bits_(size) {}

  // One byte a bit.
  std::vector<uint8_t>& bits() { return bits_; }
  const std::vector<uint8_t>& bits() const { return bits_; }
  void set(uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < std::min<uint64_t>(end, bits_.size()); ++i) bits_[i] = 1;
  }

  uint64_t next_set(uint64_t first) const override {
    if (first >= bits_.size()) return UINT64_MAX;
    const void* at = std::memchr(bits_.data() + first, 1, bits_.size() - first);
    return at == nullptr ? UINT64_MAX
                         : static_cast<uint64_t>(static_cast<const uint8_t*>(at) - bits_.data());
  }
  void give(uint64_t first, std::span<std::byte> bytes) const override {
    // Behind the end there is anything.
    std::ranges::fill(bytes, std::byte{0xff});
    for (uint64_t i = 0; i < bytes.size() * 8 && first + i < bits_.size(); ++i) {
      if (!bits_[first + i]) bytes[i / 8] &= ~static_cast<std::byte>(1u << (i % 8));
    }
  }
  void take(uint64_t first, std::span<const std::byte> bytes) override {
    for (uint64_t i = 0; i < bytes.size() * 8; ++i) {
      const bool one = (bytes[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0};
      if (first + i < bits_.size()) {
        bits_[first + i] = one;
      } else {
        beyond |= one;
      }
    }
  }
  void take_ones(uint64_t first, uint64_t count) override {
    beyond |= first + count > bits_.size();
    set(first, first + count);
  }

  // Something was said of bits that are not there.
  bool beyond = false;

 private:
  std::vector<uint8_t> bits_;
};

inline uint64_t bits_needed(uint64_t size, uint32_t granularity_bits) {
  return (size + (uint64_t{1} << granularity_bits) - 1) >> granularity_bits;
}

}  // namespace blockbed::qcow2::test
