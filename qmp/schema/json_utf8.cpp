#include "qmp/schema/json_utf8.h"

#include <bit>

namespace blockbed::json {

bool is_character(uint32_t codepoint) {
  if (codepoint > 0x10FFFF) return false;
  if (codepoint >= 0xD800 && codepoint <= 0xDFFF) return false;
  if (codepoint >= 0xFDD0 && codepoint <= 0xFDEF) return false;
  return (codepoint & 0xFFFE) != 0xFFFE;
}

DecodedChar decode_utf8(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {lead, 1};
  // Sequences of five and six bytes are no longer legal, but are still skipped as one unit.
  const uint32_t expected = static_cast<uint32_t>(std::countl_one(lead));
  if (expected < 2 || expected > 6) return {-1, 1};

  uint32_t codepoint = lead & (0x7Fu >> expected);
  uint32_t length = 1;
  while (length < expected) {
    if (length == text.size()) return {-1, length};
    const auto next = static_cast<unsigned char>(text[length]);
    if ((next & 0xC0) != 0x80) return {-1, length};
    codepoint = (codepoint << 6) | (next & 0x3F);
    ++length;
  }

  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000};
  const bool encoded_nul = expected == 2 && codepoint == 0;
  if (!encoded_nul && codepoint < kSmallest[expected]) return {-1, length};
  if (!is_character(codepoint)) return {-1, length};
  return {static_cast<int32_t>(codepoint), length};
}

void append_utf8(std::string& out, uint32_t codepoint) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (codepoint != 0 && codepoint < 0x80) {
    put(codepoint);
  } else if (codepoint < 0x800) {
    put(0xC0 | codepoint >> 6);
    put(0x80 | (codepoint & 0x3F));
  } else if (codepoint < 0x10000) {
    put(0xE0 | codepoint >> 12);
    put(0x80 | (codepoint >> 6 & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  } else {
    put(0xF0 | codepoint >> 18);
    put(0x80 | (codepoint >> 12 & 0x3F));
    put(0x80 | (codepoint >> 6 & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  }
}

}  // namespace blockbed::json
