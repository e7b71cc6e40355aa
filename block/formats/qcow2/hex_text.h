// Numbers in the texts of corruptions, as QEMU prints them: "0x1a00", and "0" without a prefix.
// Threading: pure function.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>

namespace blockbed::qcow2 {

inline std::string hex_text(uint64_t value) {
  if (value == 0) return "0";
  constexpr int kHexadecimal = 16;
  char digits[2 * sizeof(value)];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, kHexadecimal).ptr;
  return "0x" + std::string(digits, end);
}

}  // namespace blockbed::qcow2
