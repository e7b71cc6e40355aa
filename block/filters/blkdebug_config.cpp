#include "block/filters/blkdebug_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace blockbed {

namespace {

// What QEMU's reader keeps of a key, of a value and of a section's name; the rest is cut off.
constexpr std::size_t kMaxKey = 63;
constexpr std::size_t kMaxValue = 1023;

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

enum class Kind { kText, kNumber, kBool };
struct KnownKey {
  std::string_view name;
  Kind kind;
  bool inject;
  bool set_state;
};
constexpr std::array<KnownKey, 8> kKnownKeys{{{"event", Kind::kText, true, true},
                                              {"state", Kind::kNumber, true, true},
                                              {"iotype", Kind::kText, true, false},
                                              {"errno", Kind::kNumber, true, false},
                                              {"sector", Kind::kNumber, true, false},
                                              {"once", Kind::kBool, true, false},
                                              {"immediately", Kind::kBool, true, false},
                                              {"new_state", Kind::kNumber, false, true}}};

using Setting = std::pair<std::string, std::string>;

struct Section {
  bool inject = false;
  std::vector<Setting> settings;
};

// Decimal, octal or hexadecimal, with a sign; a negative one is as large as its two's complement.
std::optional<uint64_t> parse_config_number(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  bool negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  int base = 10;
  if (text.size() > 1 && text[0] == '0') {
    base = text[1] == 'x' || text[1] == 'X' ? 16 : 8;
    text.remove_prefix(base == 16 ? 2 : 1);
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return negative ? uint64_t{0} - value : value;
}

std::optional<bool> parse_config_bool(std::string_view text) {
  for (const std::string_view yes : {"on", "yes", "true", "y"}) {
    if (text == yes) return true;
  }
  for (const std::string_view no : {"off", "no", "false", "n"}) {
    if (text == no) return false;
  }
  return std::nullopt;
}

bool is_identifier(std::string_view id) {
  if (id.empty() || std::isalpha(static_cast<unsigned char>(id.front())) == 0) return false;
  return std::ranges::all_of(
      id, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_'; });
}

// `key = "value"`; a line of another form is a key without value.
Setting parse_setting(std::string_view line) {
  while (!line.empty() && is_space(line.front())) line.remove_prefix(1);
  const auto key_end = std::ranges::find_if(line, is_space);
  std::size_t length = static_cast<std::size_t>(key_end - line.begin());
  std::string key(line.substr(0, std::min(length, kMaxKey)));
  if (length > kMaxKey) return {std::move(key), {}};
  std::string_view rest = line.substr(length);
  while (!rest.empty() && is_space(rest.front())) rest.remove_prefix(1);
  if (!rest.starts_with('=')) return {std::move(key), {}};
  rest.remove_prefix(1);
  while (!rest.empty() && is_space(rest.front())) rest.remove_prefix(1);
  if (!rest.starts_with('"')) return {std::move(key), {}};
  rest.remove_prefix(1);
  const std::size_t quote = std::min(rest.find('"'), rest.size());
  return {std::move(key), std::string(rest.substr(0, std::min(quote, kMaxValue)))};
}

const KnownKey* known_key(const Section& section, std::string_view name) {
  const auto known = std::ranges::find_if(kKnownKeys, [&](const KnownKey& key) {
    return key.name == name && (section.inject ? key.inject : key.set_state);
  });
  return known == kKnownKeys.end() ? nullptr : &*known;
}

Expected<void> check_settings(const Section& section) {
  for (const auto& [key, value] : section.settings) {
    const KnownKey* known = known_key(section, key);
    if (known == nullptr) continue;
    if (known->kind == Kind::kNumber && !parse_config_number(value)) {
      return fail(fmt::format("Parameter '{}' expects a number", key));
    }
    if (known->kind == Kind::kBool && !parse_config_bool(value)) {
      return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", key));
    }
  }
  for (const auto& [key, value] : section.settings) {
    if (known_key(section, key) == nullptr) return fail(fmt::format("Invalid parameter '{}'", key));
  }
  return {};
}

Expected<Section> begin_section(std::string_view line,
                                std::set<std::pair<bool, std::string>>& identifiers) {
  const std::string_view inside = line.substr(1);
  const std::size_t end = inside.find(']');
  std::string_view name = inside.substr(0, std::min(end, inside.size()));
  std::string_view id;
  if (end != std::string_view::npos) {
    if (const std::size_t space = name.find(' '); space != std::string_view::npos) {
      id = name.substr(space + 1);
      name = name.substr(0, space);
      while (id.starts_with(' ')) id.remove_prefix(1);
      if (id.starts_with('"')) {
        id.remove_prefix(1);
        id = id.substr(0, id.find('"'));
      }
    }
  }
  name = name.substr(0, kMaxKey);
  Section section;
  if (name == "inject-error") {
    section.inject = true;
  } else if (name != "set-state") {
    return fail(fmt::format("There is no option group '{}'", name));
  }
  if (!id.empty()) {
    if (!is_identifier(id)) return fail("Parameter 'id' expects an identifier");
    if (!identifiers.emplace(section.inject, std::string(id)).second) {
      return fail(fmt::format("Duplicate ID '{}' for {}", id, name));
    }
  }
  return section;
}

const std::string* find_setting(const Section& section, std::string_view key) {
  // The last one counts.
  const std::string* found = nullptr;
  for (const Setting& setting : section.settings) {
    if (setting.first == key) found = &setting.second;
  }
  return found;
}

int64_t number_of(const Section& section, std::string_view key, int64_t otherwise) {
  const std::string* text = find_setting(section, key);
  return text == nullptr ? otherwise : static_cast<int64_t>(*parse_config_number(*text));
}

bool flag_of(const Section& section, std::string_view key) {
  const std::string* text = find_setting(section, key);
  return text != nullptr && *parse_config_bool(*text);
}

Expected<void> add_rule(const Section& section, DebugConfig& config) {
  const std::string* event_name = find_setting(section, "event");
  if (event_name == nullptr) return fail("Missing event name for rule");
  const auto event = parse_debug_event(*event_name);
  if (!event) return fail(fmt::format("invalid parameter value: {}", *event_name));
  if (!section.inject) {
    config.set_state.push_back({*event, static_cast<int>(number_of(section, "state", 0)),
                                static_cast<int>(number_of(section, "new_state", 0))});
    return {};
  }
  InjectErrorRule rule;
  rule.event = *event;
  rule.state = static_cast<int>(number_of(section, "state", 0));
  rule.error = static_cast<int>(number_of(section, "errno", EIO));
  rule.sector = number_of(section, "sector", -1);
  rule.once = flag_of(section, "once");
  rule.immediately = flag_of(section, "immediately");
  if (const std::string* io_name = find_setting(section, "iotype")) {
    const auto io = parse_debug_io(*io_name);
    if (!io) return fail(fmt::format("invalid parameter value: {}", *io_name));
    rule.io = debug_io_bit(*io);
  }
  config.inject.push_back(rule);
  return {};
}

}  // namespace

Expected<DebugConfig> parse_debug_config(std::string_view text) {
  std::vector<Section> sections;
  std::set<std::pair<bool, std::string>> identifiers;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end);
    if (line == "\n" || line.starts_with('#')) continue;
    if (line.starts_with('[')) {
      auto section = begin_section(line, identifiers);
      if (!section) return fail(std::move(section).error());
      sections.push_back(std::move(*section));
      continue;
    }
    if (sections.empty()) return fail("no group defined");
    sections.back().settings.push_back(parse_setting(line));
  }
  for (const Section& section : sections) BB_TRY(check_settings(section));
  DebugConfig config;
  // Errors of one kind come first, as rules of the two kinds are kept apart.
  for (const bool inject : {true, false}) {
    for (const Section& section : sections) {
      if (section.inject == inject) BB_TRY(add_rule(section, config));
    }
  }
  return config;
}

}  // namespace blockbed
