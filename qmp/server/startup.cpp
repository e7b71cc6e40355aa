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

Task<Expected<void>> add_object_option(Engine& engine, const std::string& text) {
  auto parsed = parse_tree_option(text, "qom-type");
  if (!parsed) co_return fail(std::move(parsed).error());
  auto options = typed_option<schema::ObjectOptions>(std::move(*parsed));
  if (!options) co_return fail(std::move(options).error());
  if (engine.objects().find(options->id) != nullptr) {
    co_return fail(fmt::format("Duplicate ID '{}' for object", options->id));
  }
  co_return co_await engine.objects().add(std::move(*options));
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
