#include "qmp/schema/json_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <vector>

#include "qmp/schema/json_utf8.h"

namespace blockbed::json {
namespace {

// What a client reads ends at the first NUL: a damaged token may hold one.
std::string_view until_nul(std::string_view text) { return text.substr(0, text.find('\0')); }

std::string syntax_error(std::string_view what) {
  return fmt::format("JSON parse error, {}", what);
}

// Four hexadecimal digits at the front of `text`, or -1.
int32_t hex4(std::string_view text) {
  if (text.size() < 4) return -1;
  uint32_t unit = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + 4, unit, 16);
  if (error != std::errc{} || end != text.data() + 4) return -1;
  return static_cast<int32_t>(unit);
}

// Decodes the \u escape at `at` (of a pair both halves) and moves `at` behind it. False: no
// character.
bool decode_unicode_escape(std::string_view token, size_t& at, std::string& out) {
  const size_t first = at;
  int32_t unit = hex4(token.substr(first + 2));
  at = std::min(first + 6, token.size());
  if (unit < 0) return false;
  auto codepoint = static_cast<uint32_t>(unit);
  if (codepoint >= 0xD800 && codepoint <= 0xDBFF && token.substr(at, 2) == "\\u") {
    unit = hex4(token.substr(at + 2));
    if (unit >= 0xDC00 && unit <= 0xDFFF) {
      codepoint = 0x10000 + ((codepoint & 0x3FF) << 10) + (static_cast<uint32_t>(unit) & 0x3FF);
      at += 6;
    }
  }
  if (!is_character(codepoint)) return false;
  append_utf8(out, codepoint);
  return true;
}

// `token` has its quotes.
std::expected<std::string, std::string> decode_string(std::string_view token) {
  std::string out;
  const size_t end = token.size() - 1;
  out.reserve(end - 1);
  size_t at = 1;
  while (at < end) {
    size_t plain_end = at;
    while (plain_end < end && token[plain_end] != '\\' &&
           static_cast<unsigned char>(token[plain_end]) < 0x80) {
      ++plain_end;
    }
    out.append(token, at, plain_end - at);
    at = plain_end;
    if (at == end) break;

    if (token[at] != '\\') {
      const DecodedChar c = decode_utf8(token.substr(at, end - at));
      if (c.codepoint < 0) return std::unexpected(syntax_error("invalid UTF-8 sequence in string"));
      out.append(token, at, c.length);
      at += c.length;
      continue;
    }
    const char escaped = token[at + 1];
    char plain = 0;
    switch (escaped) {
      case '"':
      case '\'':
      case '\\':
      case '/':
        plain = escaped;
        break;
      case 'b':
        plain = '\b';
        break;
      case 'f':
        plain = '\f';
        break;
      case 'n':
        plain = '\n';
        break;
      case 'r':
        plain = '\r';
        break;
      case 't':
        plain = '\t';
        break;
      case 'u': {
        const size_t start = at;
        if (!decode_unicode_escape(token, at, out)) {
          return std::unexpected(syntax_error(
              fmt::format("{} is not a valid Unicode character", token.substr(start, at - start))));
        }
        continue;
      }
      default:
        return std::unexpected(syntax_error("invalid escape sequence in string"));
    }
    out.push_back(plain);
    at += 2;
  }
  return out;
}

double decode_double(std::string_view token) {
  double value = 0;
  const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), value);
  // Only strtod says whether a number out of range is infinite, tiny or zero.
  if (error != std::errc{}) return std::strtod(std::string(token).c_str(), nullptr);
  return value;
}

Value decode_integer(std::string_view token) {
  const char* const begin = token.data();
  const char* const end = begin + token.size();
  int64_t small = 0;
  if (std::from_chars(begin, end, small).ec == std::errc{}) return small;
  uint64_t large = 0;
  if (std::from_chars(begin, end, large).ec == std::errc{}) return large;
  return decode_double(token);
}

// Where the members of a large object are: without it, finding duplicates takes time by the square
// of what a client sent.
class KeyIndex {
 public:
  // True when `key` is in `object`; otherwise it is noted as the member that will be appended next.
  bool note(const Object& object, std::string_view key) {
    if (object.size() < kSmall) return object.contains(key);
    if (object.size() * 2 >= slots_.size()) rebuild(object);
    uint32_t& slot = find(object, key);
    if (slot != 0) return true;
    slot = static_cast<uint32_t>(object.size()) + 1;
    return false;
  }

 private:
  static constexpr size_t kSmall = 24;

  void rebuild(const Object& object) {
    slots_.assign(std::bit_ceil(object.size() * 4), 0);
    uint32_t place = 0;
    for (const auto& [key, value] : object) find(object, key) = ++place;
  }

  // The slot that holds the key's place plus one, or the free slot where it belongs.
  uint32_t& find(const Object& object, std::string_view key) {
    const size_t mask = slots_.size() - 1;
    size_t at = std::hash<std::string_view>{}(key)&mask;
    while (slots_[at] != 0 && object.begin()[slots_[at] - 1].first != key) at = (at + 1) & mask;
    return slots_[at];
  }

  std::vector<uint32_t> slots_;
};

}  // namespace

// Puts one value together, token by token. The first error stays; what follows it is ignored.
class Builder {
 public:
  void take(const Token& token);
  // Also for the end of the input inside of a value.
  Expected<Value> finish();
  void reset();
  bool empty() const { return stack_.empty() && !value_ && error_.empty(); }

 private:
  enum class Awaits : uint8_t {
    kFirstKey,
    kKey,
    kColon,
    kMember,
    kMemberEnd,
    kFirstItem,
    kItem,
    kItemEnd
  };

  struct Frame {
    Awaits awaits;
    Object object;
    Array array;
    std::string key;
    KeyIndex index;
  };

  void fail(std::string_view what) { error_ = syntax_error(what); }
  void take_value(const Token& token);
  void accept(Value value);
  void open(Awaits first) { stack_.push_back(Frame{first, {}, {}, {}, {}}); }
  void close();

  std::vector<Frame> stack_;
  std::optional<Value> value_;
  std::string error_;
};

void Builder::take(const Token& token) {
  if (!error_.empty()) return;
  if (stack_.empty()) return take_value(token);
  Frame& frame = stack_.back();
  const TokenKind kind = token.kind;
  switch (frame.awaits) {
    case Awaits::kFirstKey:
      if (kind == TokenKind::kRightBrace) return close();
      return take_value(token);
    case Awaits::kFirstItem:
      if (kind == TokenKind::kRightBracket) return close();
      return take_value(token);
    case Awaits::kKey:
    case Awaits::kMember:
    case Awaits::kItem:
      return take_value(token);
    case Awaits::kColon:
      if (kind != TokenKind::kColon) return fail("missing : in object pair");
      frame.awaits = Awaits::kMember;
      return;
    case Awaits::kMemberEnd:
      if (kind == TokenKind::kRightBrace) return close();
      if (kind != TokenKind::kComma) return fail("expected separator in dict");
      frame.awaits = Awaits::kKey;
      return;
    case Awaits::kItemEnd:
      if (kind == TokenKind::kRightBracket) return close();
      if (kind != TokenKind::kComma) return fail("expected separator in list");
      frame.awaits = Awaits::kItem;
      return;
  }
}

void Builder::take_value(const Token& token) {
  switch (token.kind) {
    case TokenKind::kLeftBrace:
      return open(Awaits::kFirstKey);
    case TokenKind::kLeftBracket:
      return open(Awaits::kFirstItem);
    case TokenKind::kInteger:
      return accept(decode_integer(token.text));
    case TokenKind::kFloat:
      return accept(decode_double(token.text));
    case TokenKind::kString: {
      auto text = decode_string(token.text);
      if (!text) {
        error_ = std::move(text.error());
        return;
      }
      return accept(std::move(*text));
    }
    case TokenKind::kKeyword:
      if (token.text == "true") return accept(true);
      if (token.text == "false") return accept(false);
      if (token.text == "null") return accept(Null{});
      return fail(fmt::format("invalid keyword '{}'", token.text));
    default:
      return fail("expecting value");
  }
}

void Builder::accept(Value value) {
  if (stack_.empty()) {
    value_ = std::move(value);
    return;
  }
  Frame& frame = stack_.back();
  switch (frame.awaits) {
    case Awaits::kFirstKey:
    case Awaits::kKey:
      if (!value.is_string()) return fail("key is not a string in object");
      frame.key = std::move(value.as_string());
      frame.awaits = Awaits::kColon;
      return;
    case Awaits::kMember:
      if (frame.index.note(frame.object, frame.key)) return fail("duplicate key");
      frame.object.append_new(std::move(frame.key), std::move(value));
      frame.awaits = Awaits::kMemberEnd;
      return;
    default:
      frame.array.push_back(std::move(value));
      frame.awaits = Awaits::kItemEnd;
      return;
  }
}

void Builder::close() {
  Frame& frame = stack_.back();
  const bool is_array = frame.awaits == Awaits::kFirstItem || frame.awaits == Awaits::kItemEnd;
  Value value = is_array ? Value(std::move(frame.array)) : Value(std::move(frame.object));
  stack_.pop_back();
  accept(std::move(value));
}

Expected<Value> Builder::finish() {
  if (error_.empty() && !value_) fail("premature EOI");
  Expected<Value> result = error_.empty() ? Expected<Value>(std::move(*value_))
                                          : Expected<Value>(blockbed::fail(std::move(error_)));
  reset();
  return result;
}

void Builder::reset() {
  stack_.clear();
  value_.reset();
  error_.clear();
}

Framer::Framer() : builder_(std::make_unique<Builder>()) {}
Framer::~Framer() = default;

std::unexpected<Error> Framer::drop(std::string description) {
  builder_->reset();
  open_braces_ = open_brackets_ = 0;
  tokens_ = token_bytes_ = 0;
  return fail(std::move(description));
}

Expected<Value> Framer::complete() {
  open_braces_ = open_brackets_ = 0;
  tokens_ = token_bytes_ = 0;
  return builder_->finish();
}

std::optional<Expected<Value>> Framer::take(const Token& token) {
  switch (token.kind) {
    case TokenKind::kLeftBrace:
      ++open_braces_;
      break;
    case TokenKind::kRightBrace:
      --open_braces_;
      break;
    case TokenKind::kLeftBracket:
      ++open_brackets_;
      break;
    case TokenKind::kRightBracket:
      --open_brackets_;
      break;
    case TokenKind::kError:
      return drop(syntax_error(fmt::format("stray '{}'", until_nul(token.text))));
    default:
      break;
  }
  token_bytes_ += token.text.size();
  ++tokens_;
  // All tokens of a value together stay below the limit, a single one may reach it: so does QEMU.
  if (token_bytes_ >= kMaxTokenBytes) return drop("JSON token size limit exceeded");
  if (tokens_ > kMaxTokens) return drop("JSON token count limit exceeded");
  if (open_braces_ + open_brackets_ > kMaxDepth) return drop("JSON nesting depth limit exceeded");

  builder_->take(token);
  const bool overclosed = open_braces_ < 0 || open_brackets_ < 0;
  if (!overclosed && open_braces_ + open_brackets_ > 0) return std::nullopt;
  return complete();
}

std::optional<Expected<Value>> Framer::next(std::string_view& input) {
  Token token;
  while (lexer_.next(input, token)) {
    if (auto item = take(token)) return item;
  }
  return std::nullopt;
}

std::optional<Expected<Value>> Framer::finish() {
  Token token;
  if (lexer_.finish(token)) {
    if (auto item = take(token)) return item;
  }
  if (tokens_ == 0) return std::nullopt;
  return complete();
}

Expected<Value> parse(std::string_view text) {
  Framer framer;
  std::optional<Expected<Value>> first;
  while (auto item = framer.next(text)) {
    if (first) return fail("Expecting at most one JSON value");
    if (!*item) return *item;
    first = std::move(item);
  }
  if (auto item = framer.finish()) {
    if (first) return fail("Expecting at most one JSON value");
    return std::move(*item);
  }
  if (!first) return fail("Expecting a JSON value");
  return std::move(*first);
}

}  // namespace blockbed::json
