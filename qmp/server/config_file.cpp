#include "qmp/server/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <optional>
#include <utility>

#include "block/runtime/result.h"

namespace blockbed::server {

namespace {

// A section and the option that it stands for.
constexpr std::pair<std::string_view, std::string_view> kSections[] = {
    {"accel", "accel"},
    {"action", "action"},
    {"add-fd", "add-fd"},
    {"boot-opts", "boot"},
    {"chardev", "chardev"},
    {"device", "device"},
    {"drive", "drive"},
    {"global", "global"},
    {"icount", "icount"},
    {"machine", "machine"},
    {"memory", "m"},
    {"mon", "mon"},
    {"msg", "msg"},
    {"name", "name"},
    {"netdev", "netdev"},
    {"object", "object"},
    {"overcommit", "overcommit"},
    {"rtc", "rtc"},
    {"sandbox", "sandbox"},
    {"smp-opts", "smp"},
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r";
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

void add_item(std::string& list, std::string_view key, std::string_view value) {
  if (!list.empty()) list += ',';
  list.append(key).append("=");
  for (const char c : value) list.append(c == ',' ? 2 : 1, c);
}

// [drive] or [drive "d0"]
std::optional<std::pair<std::string, std::string>> parse_header(std::string_view line) {
  if (!line.starts_with('[') || !line.ends_with(']')) return std::nullopt;
  line = line.substr(1, line.size() - 2);
  const std::size_t quote = line.find('"');
  if (quote == std::string_view::npos) return std::pair(std::string(trimmed(line)), std::string());
  const std::string_view id = trimmed(line.substr(quote));
  if (id.size() < 2 || !id.ends_with('"')) return std::nullopt;
  return std::pair(std::string(trimmed(line.substr(0, quote))),
                   std::string(id.substr(1, id.size() - 2)));
}

// key = "value"
std::optional<std::pair<std::string_view, std::string_view>> parse_item(std::string_view line) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos) return std::nullopt;
  const std::string_view value = trimmed(line.substr(equals + 1));
  if (value.size() < 2 || !value.starts_with('"') || !value.ends_with('"')) return std::nullopt;
  return std::pair(trimmed(line.substr(0, equals)), value.substr(1, value.size() - 2));
}

}  // namespace

std::expected<std::vector<OptionUse>, OptionFailure> read_config(const OptionUse& use) {
  const std::string& path = use.value;
  std::ifstream file(path);
  if (!file) {
    return std::unexpected(OptionFailure{
        use.location, fmt::format("Could not open '{}': {}", path, strerror_text(errno))});
  }
  std::vector<OptionUse> uses;
  std::string section;
  std::string line;
  int number = 0;
  const auto place = [&] { return fmt::format(":{}:{}", path, number); };
  const auto wrong = [&](std::string text) {
    return std::unexpected(OptionFailure{place(), std::move(text)});
  };
  const auto end_section = [&]() -> std::expected<void, OptionFailure> {
    if (section.empty()) return {};
    const auto known = std::ranges::find(kSections, section,
                                         &std::pair<std::string_view, std::string_view>::first);
    if (known == std::end(kSections))
      return wrong(fmt::format("There is no option group '{}'", section));
    uses.back().name = known->second;
    uses.back().location = place();
    return {};
  };
  while (std::getline(file, line)) {
    ++number;
    const std::string_view text = trimmed(line);
    if (text.empty() || text.starts_with('#')) continue;
    if (auto header = parse_header(text)) {
      if (auto ended = end_section(); !ended) return std::unexpected(std::move(ended).error());
      section = std::move(header->first);
      uses.emplace_back();
      if (!header->second.empty()) add_item(uses.back().value, "id", header->second);
      continue;
    }
    if (section.empty()) return wrong("no group defined");
    const auto item = parse_item(text);
    if (!item) return wrong("parse error");
    add_item(uses.back().value, item->first, item->second);
  }
  if (auto ended = end_section(); !ended) return std::unexpected(std::move(ended).error());
  return uses;
}

}  // namespace blockbed::server
