// Reading and writing the UTF-8 of the monitor's strings.
//
// Problem: the protocol's strings are UTF-8 with one liberty: U+0000 travels as the overlong pair
// C0 80, so that no string inside the server ever holds a NUL byte that a system call would take
// for its end. QEMU also refuses what Unicode sets aside for no character at all, and that can be
// seen by a client.
// Contract: decode_utf8() always makes progress, so damaged text can be walked through. Pure
// functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace blockbed::json {

struct DecodedChar {
  // -1: these bytes encode no character (damaged, overlong, surrogate, noncharacter, beyond
  // U+10FFFF).
  int32_t codepoint;
  // How many bytes the character, or the damaged sequence, takes: at least 1.
  uint32_t length;
};

// `text` must not be empty.
DecodedChar decode_utf8(std::string_view text);

// False for surrogates, noncharacters and what lies beyond U+10FFFF.
bool is_character(uint32_t codepoint);

// Appends the encoding of a character (U+0000 as C0 80).
void append_utf8(std::string& out, uint32_t codepoint);

}  // namespace blockbed::json
