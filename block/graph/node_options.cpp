#include "block/graph/node_options.h"

#include <algorithm>

namespace blockbed {

namespace {

std::optional<bool> bool_option(const json::Object& options, std::string_view name) {
  const json::Value* value = options.find(name);
  if (value == nullptr || !value->is_bool()) return std::nullopt;
  return value->as_bool();
}

constexpr std::string_view kChangeable[] = {"node-name",      "discard",   "cache.direct",
                                            "cache.no-flush", "read-only", "auto-read-only",
                                            "detect-zeroes"};

}  // namespace

NodeFlags flags_from(const json::Object& options,
                     const std::optional<InheritedOptions>& inherited) {
  NodeFlags flags;
  if (inherited) flags = inherited->flags;
  flags.read_only = bool_option(options, "read-only").value_or(flags.read_only);
  flags.auto_read_only = bool_option(options, "auto-read-only").value_or(flags.auto_read_only);
  flags.force_share = bool_option(options, "force-share").value_or(flags.force_share);
  if (const json::Value* cache = options.find("cache"); cache != nullptr && cache->is_object()) {
    flags.cache_direct = bool_option(cache->as_object(), "direct").value_or(flags.cache_direct);
    flags.cache_no_flush =
        bool_option(cache->as_object(), "no-flush").value_or(flags.cache_no_flush);
  }
  if (const json::Value* discard = options.find("discard");
      discard != nullptr && discard->is_string()) {
    flags.unmap = discard->as_string() == "unmap";
  }
  if (const json::Value* detect = options.find("detect-zeroes");
      detect != nullptr && detect->is_string()) {
    const std::string& mode = detect->as_string();
    flags.detect_zeroes = mode == "on"      ? DetectZeroes::kOn
                          : mode == "unmap" ? DetectZeroes::kUnmap
                                            : DetectZeroes::kOff;
  }
  return flags;
}

Expected<void> check_force_share(const NodeFlags& flags) {
  if (!flags.force_share || flags.read_only) return {};
  return fail("force-share=on can only be used with read-only images");
}

Expected<void> check_detect_zeroes(const NodeFlags& flags, const json::Object& options) {
  if (flags.detect_zeroes != DetectZeroes::kUnmap || flags.unmap) return {};
  if (!options.contains("detect-zeroes")) return {};
  return fail(
      "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
}

InheritedOptions inherited_from(const NodeFlags& above, ChildRoles roles) {
  InheritedOptions result;
  result.flags.cache_direct = above.cache_direct;
  result.flags.cache_no_flush = above.cache_no_flush;
  result.flags.force_share = above.force_share;
  result.flags.inactive = above.inactive;
  // The layers above send discards where they mean them.
  result.flags.unmap = true;
  if (roles.has(ChildRole::kCow)) {
    result.flags.read_only = true;
    result.flags.auto_read_only = false;
  } else {
    result.flags.read_only = above.read_only;
    result.flags.auto_read_only = above.auto_read_only;
  }
  return result;
}

bool is_changeable_generic_option(std::string_view name) {
  return std::ranges::find(kChangeable, name) != std::ranges::end(kChangeable);
}

json::Object without_children(const Node& node, const json::Object& options) {
  json::Object own;
  for (const auto& [key, value] : options) {
    if (node.child(key) == nullptr) own.set(key, value);
  }
  return own;
}

}  // namespace blockbed
