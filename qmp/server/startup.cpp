#include "qmp/server/startup.h"

#include <fmt/format.h>

#include "qmp/commands/block_nodes.h"
#include "qmp/schema/json_parse.h"
#include "qmp/schema/keyval.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

Expected<ParsedOption> parse_tree_option(std::string_view text, std::string_view implied_key) {
  ParsedOption option;
  if (text.starts_with('{')) {
    auto value = json::parse(text);
    if (!value) return std::unexpected(std::move(value).error());
    if (!value->is_object()) return fail("JSON value is not an object");
    option.tree = std::move(value->as_object());
    option.is_json = true;
    return option;
  }
  auto keyval = schema::parse_keyval(text, implied_key);
  if (!keyval) return std::unexpected(std::move(keyval).error());
  option.help = keyval->help;
  if (keyval->tree.is_object()) option.tree = std::move(keyval->tree.as_object());
  return option;
}

namespace {

// The system's -object is an older list: dots in its keys mean nothing, and it has its own words.
Expected<schema::ObjectOptions> parse_object_list(const OptionUse& use) {
  auto list = OptionText::parse(use.value, "qom-type");
  if (!list) return std::unexpected(std::move(list).error());
  print_warnings(use.location, list->warnings());
  json::Object members;
  for (const auto& [key, value] : list->items()) members.set(key, value);
  auto options = schema::from_keyval<schema::ObjectOptions>(json::Value(std::move(members)));
  if (options) return options;
  Error error = std::move(options).error();
  std::string& text = error.description;
  static constexpr std::string_view kUnexpected = " is unexpected";
  static constexpr std::string_view kInteger = " expects integer";
  if (text.ends_with(kUnexpected)) {
    text = fmt::format("Invalid p{}", text.substr(1, text.size() - 1 - kUnexpected.size()));
  } else if (text.ends_with(kInteger)) {
    text.replace(text.size() - kInteger.size(), kInteger.size(), " expects an int64 value");
  }
  return fail(std::move(error));
}

}  // namespace

Task<StartResult> add_object_option(Engine& engine, const OptionUse& use) {
  const bool is_system = engine.manner() == Manner::kSystem;
  const auto failure = [&use](const Error& error) {
    return std::unexpected(StartFailure{use.location, full_text(error)});
  };
  Expected<schema::ObjectOptions> options;
  if (is_system && !use.value.starts_with('{')) {
    options = parse_object_list(use);
  } else if (auto parsed = parse_tree_option(use.value, "qom-type")) {
    options = typed_option<schema::ObjectOptions>(std::move(*parsed));
  } else {
    options = std::unexpected(std::move(parsed).error());
  }
  if (!options) co_return failure(options.error());
  if (is_system && engine.objects().find(options->id) != nullptr)
    co_return failure(Error(fmt::format("Duplicate ID '{}' for object", options->id)));
  auto added = co_await engine.objects().add(std::move(*options));
  if (added) co_return StartResult();
  StartFailure failed{is_system ? "" : use.location, full_text(added.error())};
  co_return std::unexpected(std::move(failed));
}

Task<Expected<void>> add_blockdev_option(Engine& engine, const std::string& text) {
  auto parsed = parse_tree_option(text, "driver");
  if (!parsed) co_return fail(std::move(parsed).error());
  // Checked here: the complaint about a missing name comes after those about the options.
  const bool is_json = parsed->is_json;
  const json::Value value(std::move(parsed->tree));
  auto options = is_json ? schema::from_json<schema::BlockdevOptions>(value)
                         : schema::from_keyval<schema::BlockdevOptions>(value);
  if (!options) co_return fail(std::move(options).error());
  co_return co_await add_blockdev(engine.graph(), std::move(to_json(*options).as_object()), false);
}

Task<Expected<void>> add_chardev_option(Engine& engine, const std::string& text,
                                        const std::string& location) {
  auto options = OptionText::parse(text, "backend");
  if (!options) co_return fail(std::move(options).error());
  print_warnings(location, options->warnings());
  auto spec = parse_chardev(std::move(*options));
  if (!spec) co_return fail(std::move(spec).error());
  co_return co_await engine.chardevs().add(std::move(*spec), location);
}

void print_warnings(const std::string& location, const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) report_warning(location, warning);
}

}  // namespace blockbed::server
