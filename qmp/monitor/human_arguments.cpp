#include "qmp/monitor/human_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

namespace blockbed {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t'; }

// The rest of a line, eaten from the front.
class Cursor {
 public:
  explicit Cursor(std::string_view line) : rest_(line) {}

  void skip_spaces() {
    while (!rest_.empty() && is_space(rest_[0])) rest_.remove_prefix(1);
  }
  bool at_end() const { return rest_.empty(); }
  char peek() const { return rest_.empty() ? '\0' : rest_[0]; }
  void skip(size_t count = 1) { rest_.remove_prefix(std::min(count, rest_.size())); }
  std::string_view rest() const { return rest_; }

  Expected<std::string> word();

 private:
  Expected<std::string> quoted();

  std::string_view rest_;
};

Expected<std::string> Cursor::quoted() {
  std::string out;
  skip();
  while (peek() != '"') {
    if (at_end()) return fail("unterminated string");
    char c = peek();
    skip();
    if (c == '\\') {
      const char escaped = peek();
      skip();
      switch (escaped) {
        case 'n':
          c = '\n';
          break;
        case 'r':
          c = '\r';
          break;
        case '\\':
        case '\'':
        case '"':
          c = escaped;
          break;
        default:
          return fail(fmt::format("unsupported escape code: '\\{}'", escaped));
      }
    }
    out += c;
  }
  skip();
  return out;
}

Expected<std::string> Cursor::word() {
  skip_spaces();
  if (peek() == '"') return quoted();
  const size_t length = std::ranges::find_if(rest_, is_space) - rest_.begin();
  std::string out(rest_.substr(0, length));
  skip(length);
  return out;
}

// Sums of products of numbers, as they are written in C.
class Expression {
 public:
  // Deep nesting of parentheses or signs would be deep recursion.
  static constexpr int kMaxDepth = 100;

  explicit Expression(Cursor& cursor) : cursor_(cursor) {}

  Expected<int64_t> sum() {
    auto left = product();
    while (left && (cursor_.peek() == '+' || cursor_.peek() == '-')) {
      const char sign = take();
      const auto right = product();
      if (!right) return right;
      left = wrap(sign == '+' ? bits(*left) + bits(*right) : bits(*left) - bits(*right));
    }
    return left;
  }

 private:
  static uint64_t bits(int64_t value) { return static_cast<uint64_t>(value); }
  static int64_t wrap(uint64_t value) { return static_cast<int64_t>(value); }

  char take() {
    const char c = cursor_.peek();
    cursor_.skip();
    cursor_.skip_spaces();
    return c;
  }

  Expected<int64_t> product() {
    auto left = unary();
    while (left && (cursor_.peek() == '*' || cursor_.peek() == '/' || cursor_.peek() == '%')) {
      const char operation = take();
      const auto right = unary();
      if (!right) return right;
      if (operation == '*') {
        left = wrap(bits(*left) * bits(*right));
      } else if (*right == 0) {
        return fail("division by zero");
      } else if (*right == -1) {
        left = operation == '/' ? wrap(-bits(*left)) : 0;
      } else {
        left = operation == '/' ? *left / *right : *left % *right;
      }
    }
    return left;
  }

  Expected<int64_t> unary() {
    if (++depth_ > kMaxDepth) return fail("expression nested too deeply");
    auto value = unary_inside();
    --depth_;
    return value;
  }

  Expected<int64_t> unary_inside() {
    cursor_.skip_spaces();
    const char c = cursor_.peek();
    if (cursor_.at_end()) return fail("unexpected end of expression");
    if (c == '+' || c == '-' || c == '~') {
      take();
      const auto value = unary();
      if (!value || c == '+') return value;
      return wrap(c == '-' ? -bits(*value) : ~bits(*value));
    }
    if (c == '(') {
      take();
      const auto value = sum();
      if (!value) return value;
      if (cursor_.peek() != ')') return fail("')' expected");
      take();
      return value;
    }
    if (c == '\'') return character();
    return number();
  }

  Expected<int64_t> character() {
    cursor_.skip();
    if (cursor_.at_end()) return fail("character constant expected");
    const char c = cursor_.peek();
    cursor_.skip();
    if (cursor_.peek() != '\'') return fail("missing terminating \' character");
    take();
    return c;
  }

  Expected<int64_t> number() {
    const std::string_view rest = cursor_.rest();
    const bool leading_zero = rest.starts_with('0');
    const bool hexadecimal = leading_zero && rest.size() > 2 && (rest[1] | 0x20) == 'x' &&
                             std::isxdigit(static_cast<unsigned char>(rest[2])) != 0;
    const size_t prefix = hexadecimal ? 2 : 0;
    uint64_t value = 0;
    const auto [end, error] =
        std::from_chars(rest.data() + prefix, rest.data() + rest.size(), value,
                        hexadecimal    ? 16
                        : leading_zero ? 8
                                       : 10);
    if (error == std::errc::invalid_argument) {
      return fail(fmt::format("invalid char '{}' in expression", cursor_.peek()));
    }
    if (error == std::errc::result_out_of_range) return fail("number too large");
    cursor_.skip(static_cast<size_t>(end - rest.data()));
    cursor_.skip_spaces();
    return wrap(value);
  }

  Cursor& cursor_;
  int depth_ = 0;
};

Expected<uint64_t> parse_size(Cursor& cursor) {
  cursor.skip_spaces();
  const std::string_view rest = cursor.rest();
  const char* const end = rest.data() + rest.size();
  double fraction = 0;
  uint64_t whole = 0;
  const auto [whole_end, whole_error] = std::from_chars(rest.data(), end, whole);
  if (whole_error != std::errc{}) return fail("invalid size");
  const char* at = whole_end;
  if (at != end && *at == '.') {
    const auto [fraction_end, error] = std::from_chars(at, end, fraction, std::chars_format::fixed);
    if (error == std::errc{}) {
      at = fraction_end;
    } else {
      ++at;
    }
  }
  constexpr std::string_view kSuffixes = "BKMGTPE";
  size_t unit = kSuffixes.find('M');
  if (at != end) {
    const auto suffix = kSuffixes.find(static_cast<char>(*at & ~0x20));
    if (suffix != std::string_view::npos) {
      unit = suffix;
      ++at;
    }
  }
  if (unit == 0 && fraction != 0) return fail("invalid size");
  const unsigned shift = static_cast<unsigned>(unit) * 10;
  if (whole > UINT64_MAX >> shift) return fail("invalid size");
  cursor.skip(static_cast<size_t>(at - rest.data()));
  return (whole << shift) + static_cast<uint64_t>(std::ldexp(fraction, static_cast<int>(shift)));
}

class ArgumentParser {
 public:
  ArgumentParser(std::string_view command, const std::vector<HumanArgument>& expected,
                 std::string_view line)
      : command_(command), expected_(expected), cursor_(line) {}

  Expected<HumanArguments> parse() {
    for (const HumanArgument& argument : expected_) {
      cursor_.skip_spaces();
      const Expected<void> taken = take(argument);
      if (!taken) return std::unexpected(taken.error());
    }
    cursor_.skip_spaces();
    if (!cursor_.at_end()) return complain("extraneous characters at the end of line");
    return std::move(out_);
  }

 private:
  std::unexpected<Error> complain(std::string_view what) const {
    return fail(fmt::format("{}: {}", command_, what));
  }

  Expected<void> take(const HumanArgument& argument) {
    switch (argument.kind) {
      case HumanKind::kFlag:
        return take_flag(argument);
      case HumanKind::kString:
        return take_word(argument, "string expected");
      case HumanKind::kBlockDevice:
        return take_word(argument, "block device name expected");
      case HumanKind::kFilename:
        return take_word(argument, "filename expected");
      case HumanKind::kRest:
        if (cursor_.at_end()) {
          if (argument.optional) return {};
          return complain("string expected");
        }
        out_.set(argument.name, std::string(cursor_.rest()));
        cursor_.skip(cursor_.rest().size());
        return {};
      case HumanKind::kInteger: {
        if (argument.optional && cursor_.at_end()) return {};
        const auto value = Expression(cursor_).sum();
        if (!value) return fail(value.error());
        out_.set(argument.name, *value);
        return {};
      }
      case HumanKind::kSize: {
        if (argument.optional && cursor_.at_end()) return {};
        const auto value = parse_size(cursor_);
        if (!value) return fail(value.error());
        out_.set(argument.name, *value);
        return {};
      }
      case HumanKind::kOnOff:
        return take_on_off(argument);
    }
    __builtin_unreachable();
  }

  Expected<void> take_flag(const HumanArgument& argument) {
    if (cursor_.peek() != '-') return {};
    const char letter = cursor_.rest().size() > 1 ? cursor_.rest()[1] : '\0';
    if (argument.name[0] == letter) {
      cursor_.skip(2);
      out_.set(argument.name, true);
      return {};
    }
    const bool known = std::ranges::any_of(expected_, [letter](const HumanArgument& other) {
      return other.kind == HumanKind::kFlag && other.name[0] == letter;
    });
    if (known) return {};
    return complain(fmt::format("unsupported option -{}", letter));
  }

  Expected<void> take_word(const HumanArgument& argument, std::string_view complaint) {
    if (cursor_.at_end()) {
      if (argument.optional) return {};
      return complain(complaint);
    }
    auto word = cursor_.word();
    if (!word) {
      return fail(fmt::format("{}\n{}: {}", word.error().description, command_, complaint));
    }
    out_.set(argument.name, *std::move(word));
    return {};
  }

  Expected<void> take_on_off(const HumanArgument& argument) {
    if (argument.optional && cursor_.at_end()) return {};
    const auto word = cursor_.word();
    if (!word || (*word != "on" && *word != "off")) return fail("Expected 'on' or 'off'");
    out_.set(argument.name, *word == "on");
    return {};
  }

  std::string_view command_;
  const std::vector<HumanArgument>& expected_;
  Cursor cursor_;
  HumanArguments out_;
};

}  // namespace

const HumanArguments::Value* HumanArguments::find(std::string_view name) const {
  for (const auto& [known, value] : values_) {
    if (known == name) return &value;
  }
  return nullptr;
}

std::string HumanArguments::text(std::string_view name) const {
  const Value* value = find(name);
  return value == nullptr ? std::string() : std::get<std::string>(*value);
}

int64_t HumanArguments::integer(std::string_view name, int64_t otherwise) const {
  const Value* value = find(name);
  return value == nullptr ? otherwise : std::get<int64_t>(*value);
}

uint64_t HumanArguments::size(std::string_view name, uint64_t otherwise) const {
  const Value* value = find(name);
  return value == nullptr ? otherwise : std::get<uint64_t>(*value);
}

bool HumanArguments::on_off(std::string_view name, bool otherwise) const {
  const Value* value = find(name);
  return value == nullptr ? otherwise : std::get<bool>(*value);
}

Expected<HumanArguments> parse_human_arguments(std::string_view command,
                                               const std::vector<HumanArgument>& expected,
                                               std::string_view line) {
  return ArgumentParser(command, expected, line).parse();
}

}  // namespace blockbed
