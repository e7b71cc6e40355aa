#include "qmp/schema/keyval.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace blockbed::schema {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

size_t length_while(std::string_view text, bool (*belongs)(char)) {
  return static_cast<size_t>(std::ranges::find_if_not(text, belongs) - text.begin());
}

// How much of the text is a name of the schema's kind; 0 when it does not begin with one.
size_t name_length(std::string_view text) {
  size_t prefix = 0;
  if (text.starts_with("__")) {
    prefix = 2 + length_while(text.substr(2), [](char c) {
               return is_letter(c) || is_digit(c) || c == '.' || c == '-';
             });
    if (prefix >= text.size() || text[prefix] != '_') return 0;
    ++prefix;
  }
  if (prefix >= text.size() || !is_letter(text[prefix])) return 0;
  return prefix + length_while(text.substr(prefix), [](char c) {
           return is_letter(c) || is_digit(c) || c == '-' || c == '_';
         });
}

// The number that a key is, the largest one if it is too large; none when it is a name.
std::optional<size_t> key_index(std::string_view key) {
  if (key.empty() || length_while(key, is_digit) != key.size()) return std::nullopt;
  size_t index = 0;
  auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  return error == std::errc() ? index : std::numeric_limits<size_t>::max();
}

struct Fragment {
  std::string_view text;
  // The key up to the end of this fragment.
  std::string_view path;
};

Expected<std::vector<Fragment>> split_key(std::string_view key) {
  std::vector<Fragment> fragments;
  for (size_t at = 0;;) {
    std::string_view rest = key.substr(at);
    size_t length = at > 0 ? length_while(rest, is_digit) : 0;
    if (length == 0) length = name_length(rest);
    if (length == 0 || (length < rest.size() && rest[length] != '.')) {
      return fail(fmt::format("Invalid parameter '{}'", key));
    }
    if (length > kMaxKeyFragment) {
      bool is_whole = length == key.size();
      return fail(fmt::format("Parameter{} '{}' is too long", is_whole ? "" : " fragment",
                              rest.substr(0, length)));
    }
    if (fragments.size() == kMaxKeyFragments) {
      return fail(fmt::format("Parameter '{}' is nested too deeply", fragments.front().text));
    }
    fragments.push_back({rest.substr(0, length), key.substr(0, at + length)});
    at += length;
    if (at == key.size()) return fragments;
    ++at;
  }
}

std::unexpected<Error> inconsistent(std::string_view path) {
  return fail(fmt::format("Parameters '{}.*' used inconsistently", path));
}

// The value at the head of the text, with `,,` undone; the text is left after the comma that ends
// it.
std::string take_value(std::string_view& text) {
  std::string value;
  while (!text.empty()) {
    size_t length = std::min(text.find(','), text.size());
    value.append(text.substr(0, length));
    text.remove_prefix(length);
    if (!text.starts_with(",,")) break;
    value += ',';
    text.remove_prefix(2);
  }
  if (!text.empty()) text.remove_prefix(1);
  return value;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Expected<Keyval> run(std::string_view implied_key) {
    while (!text_.empty()) {
      if (Expected<void> item = parse_item(implied_key); !item) return fail(item.error());
      implied_key = {};
    }
    Expected<json::Value> tree = listify(std::move(root_), "");
    if (!tree) return fail(tree.error());
    return Keyval{std::move(*tree), help_};
  }

 private:
  Expected<void> parse_item(std::string_view implied_key) {
    size_t length = std::min(text_.find_first_of("=,"), text_.size());
    std::string_view key = text_.substr(0, length);
    bool has_value = length < text_.size() && text_[length] == '=';
    if (!has_value && (key == "help" || key == "?")) {
      help_ = true;
      text_.remove_prefix(std::min(length + 1, text_.size()));
      return {};
    }
    if (!has_value && !key.empty() && !implied_key.empty()) {
      text_.remove_prefix(std::min(length + 1, text_.size()));
      root_.set(implied_key, std::string(key));
      return {};
    }
    Expected<std::vector<Fragment>> fragments = split_key(key);
    if (!fragments) return fail(fragments.error());
    Expected<json::Object*> parent = find_parent(*fragments);
    if (!parent) return fail(parent.error());
    if (!has_value) return fail(fmt::format("Expected '=' after parameter '{}'", key));

    text_.remove_prefix(length + 1);
    std::string value = take_value(text_);
    const Fragment& last = fragments->back();
    const json::Value* old = (*parent)->find(last.text);
    if (old != nullptr && old->is_object()) return inconsistent(last.path);
    (*parent)->set(last.text, std::move(value));
    return {};
  }

  Expected<json::Object*> find_parent(const std::vector<Fragment>& fragments) {
    json::Object* object = &root_;
    for (const Fragment& fragment : std::span(fragments).first(fragments.size() - 1)) {
      json::Value* next = object->find(fragment.text);
      if (next == nullptr) {
        object->set(fragment.text, json::Object());
        next = object->find(fragment.text);
      }
      if (!next->is_object()) return inconsistent(fragment.path);
      object = &next->as_object();
    }
    return object;
  }

  // Makes arrays of the objects whose keys are numbers, innermost first.
  static Expected<json::Value> listify(json::Object object, const std::string& path) {
    json::Object named;
    size_t numbers = 0;
    for (const json::Object::Member& member : object) {
      json::Value value = member.second;
      if (value.is_object()) {
        std::string inner = path.empty() ? member.first : path + "." + member.first;
        Expected<json::Value> changed = listify(std::move(value.as_object()), inner);
        if (!changed) return fail(changed.error());
        value = std::move(*changed);
      }
      if (key_index(member.first)) ++numbers;
      named.set(member.first, std::move(value));
    }
    if (numbers == 0) return named;
    if (numbers != named.size()) return inconsistent(path);
    return to_array(named, path);
  }

  static Expected<json::Value> to_array(const json::Object& named, const std::string& path) {
    // `0` and `00` are one place, so there may be fewer elements than keys; never more.
    std::vector<const json::Value*> elements(named.size());
    size_t length = 0;
    for (const json::Object::Member& member : named) {
      size_t index = *key_index(member.first);
      length = std::max(length, index < named.size() ? index + 1 : named.size());
      if (index < named.size()) elements[index] = &member.second;
    }
    json::Array array;
    for (size_t i = 0; i < length; ++i) {
      if (elements[i] == nullptr) return fail(fmt::format("Parameter '{}.{}' missing", path, i));
      array.push_back(*elements[i]);
    }
    return array;
  }

  std::string_view text_;
  json::Object root_;
  bool help_ = false;
};

}  // namespace

Expected<Keyval> parse_keyval(std::string_view text, std::string_view implied_key) {
  return Parser(text).run(implied_key);
}

}  // namespace blockbed::schema
