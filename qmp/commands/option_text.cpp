#include "qmp/commands/option_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "qmp/schema/keyval.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

bool is_well_formed_id(std::string_view text) {
  if (text.empty() || !std::isalpha(static_cast<unsigned char>(text[0]))) return false;
  return std::ranges::all_of(
      text, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
}

Expected<OptionText> OptionText::parse(std::string_view text, std::string_view implied_key) {
  OptionText result;
  std::size_t at = 0;
  bool first = true;
  while (at < text.size()) {
    const std::size_t equals = text.find('=', at);
    const std::size_t comma = text.find(',', at);
    std::string key, value;
    const auto read_value = [&] {
      while (at < text.size()) {
        if (text[at] == ',') {
          if (at + 1 >= text.size() || text[at + 1] != ',') break;
          ++at;
        }
        value += text[at++];
      }
      if (at < text.size()) ++at;
    };
    if (equals < comma) {
      key = text.substr(at, equals - at);
      at = equals + 1;
      read_value();
    } else if (first && !implied_key.empty()) {
      key = implied_key;
      read_value();
    } else {
      read_value();
      if (value == "help" || value == "?") {
        result.help_ = true;
        first = false;
        continue;
      }
      const bool off = value.starts_with("no");
      key = off ? value.substr(2) : value;
      result.warnings_.push_back(
          fmt::format("short-form boolean option '{}' deprecated\nPlease use {}={} instead", value,
                      key, off ? "off" : "on"));
      value = off ? "off" : "on";
    }
    first = false;
    if (key == "id" && !is_well_formed_id(value)) {
      return fail(fmt::format("Parameter 'id' expects an identifier\n{}", kIdHint));
    }
    result.items_.emplace_back(std::move(key), std::move(value));
  }
  return result;
}

const std::string* OptionText::find(std::string_view key) const {
  const auto found = std::ranges::find(items_.rbegin(), items_.rend(), key, &Item::first);
  return found == items_.rend() ? nullptr : &found->second;
}

std::string OptionText::text(std::string_view key, std::string_view otherwise) const {
  const std::string* value = find(key);
  return value == nullptr ? std::string(otherwise) : *value;
}

std::optional<std::string> OptionText::take(std::string_view key) {
  const std::string* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::string result = *value;
  std::erase_if(items_, [&](const Item& item) { return item.first == key; });
  return result;
}

void OptionText::set(std::string key, std::string value) {
  (void)take(key);
  items_.emplace_back(std::move(key), std::move(value));
}

Expected<bool> OptionText::take_switch(std::string_view key, bool otherwise) {
  const auto value = take(key);
  if (!value) return otherwise;
  const auto parsed = schema::parse_switch(*value);
  if (!parsed) return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", key));
  return *parsed;
}

Expected<std::optional<uint64_t>> OptionText::take_number(std::string_view key) {
  const auto value = take(key);
  if (!value) return std::optional<uint64_t>();
  const auto parsed = schema::parse_uint64(*value);
  if (!parsed) return fail(fmt::format("Parameter '{}' expects a number", key));
  return std::optional<uint64_t>(*parsed);
}

Expected<json::Object> OptionText::tree() const {
  std::string joined;
  for (const auto& [key, value] : items_) {
    if (!joined.empty()) joined += ',';
    joined += key;
    joined += '=';
    for (const char c : value) joined.append(c == ',' ? 2 : 1, c);
  }
  auto parsed = schema::parse_keyval(joined);
  if (!parsed) return std::unexpected(std::move(parsed).error());
  return std::move(parsed->tree.as_object());
}

}  // namespace blockbed
