// Big-endian numbers in tables of an image.
//
// Contract: any alignment. Threading: pure functions.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace blockbed::qcow2 {

template <class T>
inline T load_be(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  if constexpr (sizeof(T) > 1) value = std::byteswap(value);
  return value;
}

template <class T>
inline void store_be(void* to, T value) {
  if constexpr (sizeof(T) > 1) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof(value));
}

inline uint64_t load_be64(const void* from) { return load_be<uint64_t>(from); }
inline void store_be64(void* to, uint64_t value) { store_be<uint64_t>(to, value); }

}  // namespace blockbed::qcow2
