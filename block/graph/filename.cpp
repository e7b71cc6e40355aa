#include "block/graph/filename.h"

#include <fmt/format.h>

#include "block/graph/flat_options.h"
#include "block/graph/graph.h"
#include "qmp/schema/json_parse.h"

namespace blockbed {

std::optional<std::string_view> protocol_of(std::string_view filename) {
  const std::size_t end = filename.find_first_of(":/");
  if (end == std::string_view::npos || filename[end] != ':') return std::nullopt;
  return filename.substr(0, end);
}

bool is_absolute_path(std::string_view path) { return path.starts_with('/'); }

std::string combine_paths(std::string_view base, std::string_view name) {
  if (is_absolute_path(name)) return std::string(name);
  return std::string(base) + std::string(name);
}

namespace {

// A name inside a name ("blkdebug::blkdebug::disk.img") is a step down the stack.
constexpr int kMaxNamesInNames = 64;

Expected<FilenameOptions> options_at_depth(const DriverRegistry& drivers, std::string_view filename,
                                           int depth);

// The child's definition holds a name only: what that means is put in its place.
Expected<void> open_child_name(const DriverRegistry& drivers, json::Object& options,
                               std::string_view child, int depth) {
  json::Value* named = options.find(child);
  // The storage of an image, or the child itself.
  if (json::Value* file = named->as_object().find("file")) named = file;
  json::Object& definition = named->as_object();
  if (depth == kMaxNamesInNames) return fail("A file name contains too many others");
  auto below = options_at_depth(drivers, definition.find("filename")->as_string(), depth + 1);
  if (!below) return fail(std::move(below).error());
  definition = std::move(below->options);
  return {};
}

Expected<FilenameOptions> options_at_depth(const DriverRegistry& drivers, std::string_view filename,
                                           int depth) {
  FilenameOptions result;
  const std::optional<std::string_view> protocol = protocol_of(filename);
  if (!protocol) {
    result.options.set("filename", filename);
    return result;
  }
  if (protocol == "json") {
    auto parsed = json::parse(filename.substr(5));
    if (!parsed)
      return fail(fmt::format("Could not parse the JSON options: {}", parsed.error().description));
    if (!parsed->is_object()) return fail("Invalid JSON object given");
    auto nested = nest_options(std::move(parsed->as_object()));
    if (!nested) return fail(std::move(nested).error());
    result.options = std::move(*nested);
    result.is_complete = true;
    return result;
  }
  for (const DriverEntry& entry : drivers.entries()) {
    for (const std::string& name : entry.protocol_names) {
      if (name != protocol) continue;
      if (entry.parse_filename != nullptr) {
        auto options = entry.parse_filename(filename);
        if (!options) return fail(std::move(options).error());
        result.options = std::move(*options);
        if (!entry.named_child.empty()) {
          BB_TRY(open_child_name(drivers, result.options, entry.named_child, depth));
        }
      } else {
        result.options.set("filename", filename);
      }
      if (!result.options.contains("driver") && entry.name != "file")
        result.options.set("driver", entry.name);
      return result;
    }
  }
  return fail(fmt::format("Unknown protocol '{}'", *protocol));
}

}  // namespace

Expected<FilenameOptions> options_of_filename(const DriverRegistry& drivers,
                                              std::string_view filename,
                                              const DriverEntry* asked_for) {
  const bool reads_itself = asked_for != nullptr && asked_for->parse_filename != nullptr &&
                            asked_for->named_child.empty() && protocol_of(filename) != "json";
  if (!reads_itself) return options_at_depth(drivers, filename, 0);
  auto options = asked_for->parse_filename(filename);
  if (!options) return fail(std::move(options).error());
  return FilenameOptions{.options = std::move(*options), .is_complete = false};
}

Expected<std::string> resolve_backing_name(const Node& node, std::string_view stored) {
  if (protocol_of(stored) || is_absolute_path(stored)) return std::string(stored);
  auto base = node.driver().directory();
  if (!base) return fail(std::move(base).error());
  return combine_paths(*base, stored);
}

}  // namespace blockbed
