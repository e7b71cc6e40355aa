// Reference counts in a block: entries of 1 to 64 bits.
//
// Contract: `order` is log2 of the width; entries narrower than a byte start at its least
// significant bit. Threading: pure functions. Source: qcow2 specification, "Refcount block entry".
#pragma once

#include <cstddef>
#include <cstdint>

#include "block/formats/qcow2/endian.h"

namespace blockbed::qcow2 {

inline uint64_t get_refcount(const std::byte* block, uint64_t index, uint32_t order) {
  switch (order) {
    case 3:
      return static_cast<uint64_t>(block[index]);
    case 4:
      return load_be<uint16_t>(block + index * 2);
    case 5:
      return load_be<uint32_t>(block + index * 4);
    case 6:
      return load_be64(block + index * 8);
    default: {
      const uint32_t per_byte_bits = 3 - order;
      const uint32_t shift = static_cast<uint32_t>(index & ((1u << per_byte_bits) - 1)) << order;
      const uint32_t mask = (1u << (1u << order)) - 1;
      return (static_cast<uint32_t>(block[index >> per_byte_bits]) >> shift) & mask;
    }
  }
}

// The first count from `index` on that is not zero; `end` when there is none.
inline uint64_t next_refcount(const std::byte* block, uint64_t index, uint64_t end,
                              uint32_t order) {
  const uint64_t in_word = uint64_t{64} >> order;
  while (index < end && get_refcount(block, index, order) == 0) {
    const bool word = index % in_word == 0 && end - index >= in_word &&
                      load_be64(block + (index << order >> 3)) == 0;
    index += word ? in_word : 1;
  }
  return index;
}

// Behind the last count before `end` that is not zero; 0 when there is none.
inline uint64_t last_refcount(const std::byte* block, uint64_t end, uint32_t order) {
  const uint64_t in_word = uint64_t{64} >> order;
  while (end > 0 && get_refcount(block, end - 1, order) == 0) {
    const bool word = end % in_word == 0 && load_be64(block + ((end - in_word) << order >> 3)) == 0;
    end -= word ? in_word : 1;
  }
  return end;
}

inline void set_refcount(std::byte* block, uint64_t index, uint32_t order, uint64_t value) {
  switch (order) {
    case 3:
      block[index] = static_cast<std::byte>(value);
      return;
    case 4:
      store_be<uint16_t>(block + index * 2, static_cast<uint16_t>(value));
      return;
    case 5:
      store_be<uint32_t>(block + index * 4, static_cast<uint32_t>(value));
      return;
    case 6:
      store_be64(block + index * 8, value);
      return;
    default: {
      const uint32_t per_byte_bits = 3 - order;
      const uint32_t shift = static_cast<uint32_t>(index & ((1u << per_byte_bits) - 1)) << order;
      const uint32_t mask = ((1u << (1u << order)) - 1) << shift;
      std::byte& at = block[index >> per_byte_bits];
      at = (at & static_cast<std::byte>(~mask)) | static_cast<std::byte>((value << shift) & mask);
      return;
    }
  }
}

}  // namespace blockbed::qcow2
