// Scalars written as text, as command lines, human commands and keyval trees have them.
//
// Source of the rules: QEMU 7.2's behaviour. Integers are C's (`0x10`, `010`, leading blanks),
// nothing may follow. A switch is on, yes, true, y, or off, no, false, n, in lower case. A size is
// a decimal number with an optional fraction, or a hexadecimal one without; a unit B, K, M, G, T, P
// or E may follow, in either case, and a fraction of a byte is refused. Errors: no value.
// Threading: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace blockbed::schema {

std::optional<bool> parse_switch(std::string_view text);
std::optional<int64_t> parse_int64(const std::string& text);
// Takes a negative number for the unsigned one with the same bits.
std::optional<uint64_t> parse_uint64(const std::string& text);
std::optional<double> parse_finite(const std::string& text);
std::optional<uint64_t> parse_size(const std::string& text);

}  // namespace blockbed::schema
