#include "qmp/server/option_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "block/graph/option_text.h"
#include "block/runtime/result.h"
#include "qmp/commands/option_text.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed::server {

namespace {

enum class Kind { kText, kSwitch, kNumber, kSize, kChoice };

struct Suboption {
  std::string_view name;
  Kind kind = Kind::kText;
  // Of a choice: "a|b|c".
  std::string_view choices = {};
};

constexpr Suboption kAction[] = {
    {"reboot", Kind::kChoice, "reset|shutdown"},
    {"shutdown", Kind::kChoice, "poweroff|pause"},
    {"panic", Kind::kChoice, "pause|shutdown|exit-failure|none"},
    {"watchdog", Kind::kChoice, "reset|shutdown|poweroff|pause|debug|none|inject-nmi"}};
constexpr Suboption kGlobal[] = {{"driver"}, {"property"}, {"value"}};
constexpr Suboption kIcount[] = {
    {"shift"},     {"align", Kind::kSwitch}, {"sleep", Kind::kSwitch}, {"rr"}, {"rrfile"},
    {"rrsnapshot"}};
constexpr Suboption kMemory[] = {
    {"size", Kind::kSize}, {"slots", Kind::kNumber}, {"maxmem", Kind::kSize}};
constexpr Suboption kMessages[] = {{"timestamp", Kind::kSwitch}, {"guest-name", Kind::kSwitch}};
constexpr Suboption kName[] = {{"guest"}, {"process"}, {"debug-threads", Kind::kSwitch}};
constexpr Suboption kOvercommit[] = {{"mem-lock", Kind::kSwitch}, {"cpu-pm", Kind::kSwitch}};
constexpr Suboption kClock[] = {{"base"}, {"clock"}, {"driftfix"}};
constexpr Suboption kSandbox[] = {
    {"enable", Kind::kSwitch}, {"obsolete"}, {"elevateprivileges"}, {"spawn"}, {"resourcecontrol"}};

struct Group {
  std::string_view option;
  std::string_view implied;
  std::span<const Suboption> members;
};

constexpr Group kGroups[] = {
    {"action", "", kAction},         {"global", "", kGlobal}, {"icount", "shift", kIcount},
    {"m", "size", kMemory},          {"msg", "", kMessages},  {"name", "guest", kName},
    {"overcommit", "", kOvercommit}, {"rtc", "", kClock},     {"sandbox", "enable", kSandbox},
};

bool is_choice(std::string_view choices, std::string_view value) {
  while (!choices.empty()) {
    const std::size_t bar = choices.find('|');
    if (choices.substr(0, bar) == value) return true;
    choices = bar == std::string_view::npos ? std::string_view() : choices.substr(bar + 1);
  }
  return false;
}

Expected<void> check_value(const Suboption& member, const std::string& value) {
  switch (member.kind) {
    case Kind::kText:
      return {};
    case Kind::kSwitch:
      if (schema::parse_switch(value)) return {};
      return fail(fmt::format("Parameter '{}' expects 'on' or 'off'", member.name));
    case Kind::kNumber:
      if (schema::parse_uint64(value)) return {};
      return fail(fmt::format("Parameter '{}' expects a number", member.name));
    case Kind::kSize:
      if (schema::parse_size(value)) return {};
      return no_size(member.name);
    case Kind::kChoice:
      if (is_choice(member.choices, value)) return {};
      return fail(fmt::format("Parameter '{}' does not accept value '{}'", member.name, value));
  }
  return {};
}

Expected<void> check_members(const Group& group, const OptionText& text) {
  for (const auto& [key, value] : text.items()) {
    const auto member = std::ranges::find(group.members, key, &Suboption::name);
    if (member == group.members.end()) return fail(fmt::format("Invalid parameter '{}'", key));
    BB_TRY(check_value(*member, value));
  }
  if (group.option == "icount" && text.has("shift") && text.text("shift") != "auto") {
    constexpr int64_t kMaxShift = 10;
    const auto shift = schema::parse_int64(text.text("shift"));
    if (!shift || *shift < 0 || *shift > kMaxShift) return fail("icount: Invalid shift value");
  }
  return {};
}

// A property of the machine to QEMU, and named so.
Expected<void> check_boot(const std::string& value) {
  static constexpr std::string_view kMembers[] = {
      "order", "once", "menu", "splash", "splash-time", "reboot-timeout", "strict"};
  auto text = OptionText::parse(value, "order");
  if (!text) return std::unexpected(std::move(text).error());
  for (const auto& [key, member] : text->items()) {
    if (std::ranges::find(kMembers, key) == std::end(kMembers))
      return fail(fmt::format("Parameter 'boot.{}' is unexpected", key));
    if ((key == "menu" || key == "strict") && !schema::parse_switch(member))
      return fail(fmt::format("Parameter 'boot.{}' expects 'on' or 'off'", key));
    if (key != "order" && key != "once") continue;
    std::string seen;
    for (const char device : member) {
      if (device < 'a' || device > 'p')
        return fail(fmt::format("Invalid boot device '{}'", device));
      if (seen.contains(device))
        return fail(fmt::format("Boot device '{}' was given twice", device));
      seen += device;
    }
  }
  return {};
}

}  // namespace

std::expected<void, OptionFailure> check_option_group(const OptionUse& use,
                                                      std::vector<std::string>& warnings) {
  if (use.name == "boot") {
    auto checked = check_boot(use.value);
    if (!checked) return std::unexpected(OptionFailure{"", checked.error().description});
    return {};
  }
  // "driver.property=value" is no list.
  if (use.name == "global" && use.value.find('.') < use.value.find('=') &&
      use.value.contains('=')) {
    return {};
  }
  const auto group = std::ranges::find(kGroups, use.name, &Group::option);
  if (group == std::end(kGroups)) return {};
  Expected<void> checked;
  auto text = OptionText::parse(use.value, group->implied);
  if (text) {
    warnings = text->warnings();
    checked = check_members(*group, *text);
  } else {
    checked = std::unexpected(std::move(text).error());
  }
  if (checked) return {};
  const Error& error = checked.error();
  return std::unexpected(OptionFailure{use.location, error.hint.empty()
                                                         ? error.description
                                                         : error.description + "\n" + error.hint});
}

}  // namespace blockbed::server
