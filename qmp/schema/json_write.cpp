#include "qmp/schema/json_write.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <type_traits>
#include <vector>

#include "qmp/schema/json_utf8.h"

namespace blockbed::json {
namespace {

constexpr int kIndent = 4;

constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (int c = 0x20; c < 0x7F; ++c) plain[static_cast<size_t>(c)] = c != '"' && c != '\\';
  return plain;
}();

void append_hex_escape(std::string& out, uint32_t unit) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  const char escape[] = {'\\',
                         'u',
                         kDigits[unit >> 12 & 0xF],
                         kDigits[unit >> 8 & 0xF],
                         kDigits[unit >> 4 & 0xF],
                         kDigits[unit & 0xF]};
  out.append(escape, sizeof escape);
}

void append_escaped(std::string& out, uint32_t codepoint) {
  switch (codepoint) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\b':
      out += "\\b";
      return;
    case '\f':
      out += "\\f";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      break;
  }
  if (codepoint < 0x10000) {
    append_hex_escape(out, codepoint);
  } else {
    append_hex_escape(out, 0xD800 + ((codepoint - 0x10000) >> 10));
    append_hex_escape(out, 0xDC00 + ((codepoint - 0x10000) & 0x3FF));
  }
}

void append_string(std::string& out, std::string_view text) {
  out.push_back('"');
  size_t done = 0;
  while (done < text.size()) {
    size_t plain_end = done;
    while (plain_end < text.size() && kPlain[static_cast<unsigned char>(text[plain_end])]) {
      ++plain_end;
    }
    out.append(text, done, plain_end - done);
    done = plain_end;
    if (done == text.size()) break;
    const DecodedChar c = decode_utf8(text.substr(done));
    append_escaped(out, c.codepoint < 0 ? 0xFFFD : static_cast<uint32_t>(c.codepoint));
    done += c.length;
  }
  out.push_back('"');
}

template <class Integer>
void append_integer(std::string& out, Integer value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, static_cast<size_t>(end - digits));
}

void append_double(std::string& out, double value) {
  // With a precision of 17 significant digits this is printf's %.17g, without its locale.
  char digits[40];
  const auto end =
      std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 17).ptr;
  out.append(digits, static_cast<size_t>(end - digits));
}

// The members of one object in the order of printing. A sort key holds the bucket above the
// insertion place counted backwards, so that one integer comparison gives the whole order.
class PrintOrder {
 public:
  explicit PrintOrder(const Object& object) : members_(object.begin()) {
    const size_t count = object.size();
    uint64_t* keys = few_.data();
    if (count > few_.size()) {
      many_.resize(count);
      keys = many_.data();
    }
    for (size_t i = 0; i < count; ++i) {
      const uint64_t bucket = key_bucket(members_[i].first);
      keys[i] = bucket << 32 | (kLast - static_cast<uint32_t>(i));
    }
    std::sort(keys, keys + count);
    keys_ = keys;
  }
  PrintOrder(const PrintOrder&) = delete;
  PrintOrder& operator=(const PrintOrder&) = delete;

  const Object::Member& operator[](size_t place) const {
    return members_[kLast - static_cast<uint32_t>(keys_[place])];
  }

 private:
  static constexpr uint32_t kLast = 0xFFFFFFFF;

  const Object::Member* members_;
  std::array<uint64_t, 48> few_;
  std::vector<uint64_t> many_;
  const uint64_t* keys_;
};

template <bool kPretty>
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  void value(const Value& value) {
    std::visit(
        [this](const auto& form) {
          using Form = std::decay_t<decltype(form)>;
          if constexpr (std::is_same_v<Form, Null>) {
            out_ += "null";
          } else if constexpr (std::is_same_v<Form, bool>) {
            out_ += form ? "true" : "false";
          } else if constexpr (std::is_same_v<Form, double>) {
            append_double(out_, form);
          } else if constexpr (std::is_same_v<Form, std::string>) {
            append_string(out_, form);
          } else if constexpr (std::is_same_v<Form, Array>) {
            array(form);
          } else if constexpr (std::is_same_v<Form, Object>) {
            object(form);
          } else {
            append_integer(out_, form);
          }
        },
        value.data());
  }

  void object(const Object& object) {
    out_.push_back('{');
    if (!object.empty()) {
      const PrintOrder order(object);
      ++depth_;
      for (size_t i = 0; i < object.size(); ++i) {
        separate(i == 0);
        const auto& [key, member] = order[i];
        append_string(out_, key);
        out_ += ": ";
        value(member);
      }
      --depth_;
    }
    new_line();
    out_.push_back('}');
  }

 private:
  void array(const Array& array) {
    out_.push_back('[');
    ++depth_;
    for (size_t i = 0; i < array.size(); ++i) {
      separate(i == 0);
      value(array[i]);
    }
    --depth_;
    new_line();
    out_.push_back(']');
  }

  void separate(bool first) {
    if (!first) {
      if constexpr (kPretty) {
        out_.push_back(',');
      } else {
        out_ += ", ";
      }
    }
    new_line();
  }

  void new_line() {
    if constexpr (kPretty) {
      out_.push_back('\n');
      out_.append(depth_ * kIndent, ' ');
    }
  }

  std::string& out_;
  size_t depth_ = 0;
};

}  // namespace

uint32_t key_bucket(std::string_view key) {
  uint32_t hash = 0x238F13AFu * static_cast<uint32_t>(key.size());
  for (size_t i = 0; i < key.size(); ++i) {
    hash += static_cast<uint32_t>(static_cast<unsigned char>(key[i])) << (i * 5 % 24);
  }
  return (1103515243u * hash + 12345u) % kKeyBuckets;
}

std::vector<const Object::Member*> in_print_order(const Object& object) {
  const PrintOrder order(object);
  std::vector<const Object::Member*> members;
  members.reserve(object.size());
  for (size_t i = 0; i < object.size(); ++i) members.push_back(&order[i]);
  return members;
}

void write(std::string& out, const Value& value) { Writer<false>(out).value(value); }
void write(std::string& out, const Object& object) { Writer<false>(out).object(object); }
void write_pretty(std::string& out, const Value& value) { Writer<true>(out).value(value); }
void write_pretty(std::string& out, const Object& object) { Writer<true>(out).object(object); }

std::string to_string(const Value& value) {
  std::string out;
  write(out, value);
  return out;
}

std::string to_pretty_string(const Value& value) {
  std::string out;
  write_pretty(out, value);
  return out;
}

}  // namespace blockbed::json
