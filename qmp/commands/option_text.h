// Options of the older form: `file=a.img,if=none,id=d0`, flat, values are text.
//
// Problem: -drive, -device, -chardev and -mon take lists of key=value with rules of their own,
// which differ from keyval's (qmp/schema/keyval.h): keys are not cut at dots, a key alone is a
// switch.
//
// Contract: `,,` in a value stands for a comma; the first item may be a value alone when an implied
// key is given; a later item of the same key wins; a key alone means on, with `no` in front off,
// and is deprecated: `warnings` says so in QEMU's words, one text an item. `id` must be well
// formed. Errors: GenericError. Threading: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// A letter, then letters, digits, '-', '.', '_'.
bool is_well_formed_id(std::string_view text);
// What QEMU says about an id that is not: the hint goes to people only.
inline constexpr std::string_view kIdHint =
    "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";

class OptionText {
 public:
  using Item = std::pair<std::string, std::string>;

  static Expected<OptionText> parse(std::string_view text, std::string_view implied_key = {});

  // Null when the key is absent; the last one given counts.
  const std::string* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::string text(std::string_view key, std::string_view otherwise = {}) const;
  // Removes all items of the key; the last value.
  std::optional<std::string> take(std::string_view key);
  void set(std::string key, std::string value);

  // "Parameter 'x' expects 'on' or 'off'".
  Expected<bool> take_switch(std::string_view key, bool otherwise);
  Expected<std::optional<uint64_t>> take_number(std::string_view key);

  const std::vector<Item>& items() const { return items_; }
  bool empty() const { return items_.empty(); }
  // `help` or `?` was among the items.
  bool help() const { return help_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Keys cut at dots, as keyval has them: {"file": {"driver": "nbd"}, "node-name": "a"}.
  Expected<json::Object> tree() const;

 private:
  std::vector<Item> items_;
  std::vector<std::string> warnings_;
  bool help_ = false;
};

}  // namespace blockbed
