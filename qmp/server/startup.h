// What both command lines do with their options.
//
// Contract: each applies one option and returns QEMU's text when it fails; the caller knows the
// location. Threading: engine thread.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/server/engine.h"
#include "qmp/server/system_options.h"

namespace blockbed::server {

// A failure of start-up: what is printed, and behind which option.
struct StartFailure {
  std::string location;
  std::string text;
};
using StartResult = std::expected<void, StartFailure>;

// Text of the form a=b,c.d=e, or JSON when it begins with '{'. `is_json` says which: values of the
// first are strings.
struct ParsedOption {
  json::Object tree;
  bool is_json = false;
  bool help = false;
};
Expected<ParsedOption> parse_tree_option(std::string_view text, std::string_view implied_key);

template <class T>
Expected<T> typed_option(ParsedOption option) {
  const json::Value value(std::move(option.tree));
  return option.is_json ? schema::from_json<T>(value) : schema::from_keyval<T>(value);
}

// What is wrong with the options has a location, what is wrong with the object has none in the
// system's manner.
Task<StartResult> add_object_option(Engine& engine, const OptionUse& use);
Task<Expected<void>> add_blockdev_option(Engine& engine, const std::string& text);
Task<Expected<void>> add_chardev_option(Engine& engine, const std::string& text,
                                        const std::string& location);

// Warnings about deprecated short forms.
void print_warnings(const std::string& location, const std::vector<std::string>& warnings);

}  // namespace blockbed::server
