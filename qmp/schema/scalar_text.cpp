#include "qmp/schema/scalar_text.h"

#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>

namespace blockbed::schema {

namespace {

// A C number that is the whole text; a NUL inside ends it for strtoll and is therefore refused.
bool is_whole(const std::string& text, const char* end) {
  return end != text.c_str() && end == text.c_str() + text.size() && errno == 0;
}

std::optional<int> unit_shift(char unit) {
  switch (std::toupper(static_cast<unsigned char>(unit))) {
    case 'B':
      return 0;
    case 'K':
      return 10;
    case 'M':
      return 20;
    case 'G':
      return 30;
    case 'T':
      return 40;
    case 'P':
      return 50;
    case 'E':
      return 60;
    default:
      return std::nullopt;
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::optional<bool> parse_switch(std::string_view text) {
  if (text == "on" || text == "yes" || text == "true" || text == "y") return true;
  if (text == "off" || text == "no" || text == "false" || text == "n") return false;
  return std::nullopt;
}

std::optional<int64_t> parse_int64(const std::string& text) {
  errno = 0;
  char* end = nullptr;
  long long value = std::strtoll(text.c_str(), &end, 0);
  if (!is_whole(text, end)) return std::nullopt;
  return value;
}

std::optional<uint64_t> parse_uint64(const std::string& text) {
  errno = 0;
  char* end = nullptr;
  unsigned long long value = std::strtoull(text.c_str(), &end, 0);
  if (!is_whole(text, end)) return std::nullopt;
  return value;
}

std::optional<double> parse_finite(const std::string& text) {
  errno = 0;
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (!is_whole(text, end) || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<uint64_t> parse_size(const std::string& text) {
  size_t at = 0;
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
  if (at < text.size() && text[at] == '+') ++at;
  if (at >= text.size() || !is_digit(text[at])) return std::nullopt;

  bool is_hex =
      text[at] == '0' && at + 1 < text.size() && (text[at + 1] == 'x' || text[at + 1] == 'X');
  errno = 0;
  char* end = nullptr;
  uint64_t whole = std::strtoull(text.c_str() + at, &end, is_hex ? 16 : 10);
  if (errno != 0) return std::nullopt;
  at = static_cast<size_t>(end - text.c_str());

  double fraction = 0;
  if (at < text.size() && text[at] == '.') {
    if (is_hex) return std::nullopt;
    size_t digits_end = at + 1;
    while (digits_end < text.size() && is_digit(text[digits_end])) ++digits_end;
    if (digits_end > at + 1)
      fraction = std::strtod(("0" + text.substr(at, digits_end - at)).c_str(), nullptr);
    at = digits_end;
  }

  int shift = 0;
  if (at < text.size()) {
    std::optional<int> unit = unit_shift(text[at]);
    if (!unit) return std::nullopt;
    shift = *unit;
    ++at;
  }
  if (at != text.size()) return std::nullopt;
  if (shift == 0 && fraction != 0) return std::nullopt;
  if (whole > UINT64_MAX >> shift) return std::nullopt;
  uint64_t value = whole << shift;
  auto part = static_cast<uint64_t>(fraction * static_cast<double>(uint64_t{1} << shift));
  if (part > UINT64_MAX - value) return std::nullopt;
  return value + part;
}

}  // namespace blockbed::schema
