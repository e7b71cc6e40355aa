#include "block/graph/flat_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/runtime/result.h"

namespace blockbed {

namespace {

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 10 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// Numbered members as a list, if that is what they are.
Expected<json::Value> list_if_numbered(json::Object object, const std::string& where) {
  if (object.empty()) return json::Value(std::move(object));
  std::size_t numbered = 0;
  for (const auto& [key, value] : object) numbered += is_number(key) ? 1 : 0;
  if (numbered == 0) return json::Value(std::move(object));
  if (numbered < object.size()) {
    return fail("Cannot mix list and non-list keys");
  }
  json::Array array;
  for (std::size_t i = 0; i < numbered; ++i) {
    const std::string key = std::to_string(i);
    if (!object.contains(key)) return fail(fmt::format("Missing list index {}{}", where, i));
    array.push_back(object.take(key));
  }
  return json::Value(std::move(array));
}

Expected<void> insert(json::Object& into, std::string_view key, json::Value value, int depth) {
  if (depth > kMaxFlatDepth) return fail(fmt::format("Parameter '{}' is nested too deeply", key));
  const std::size_t dot = key.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot + 1 == key.size()) {
    const json::Value* old = into.find(key);
    if (old != nullptr && (old->is_object() || value.is_object())) {
      if (!old->is_object() || !value.is_object()) {
        return fail(fmt::format("Cannot mix scalar and non-scalar keys"));
      }
      const json::Object members = value.as_object();
      for (const auto& [name, member] : members) {
        BB_TRY(insert(into.find(key)->as_object(), name, member, depth + 1));
      }
      return {};
    }
    into.set(key, std::move(value));
    return {};
  }
  const std::string_view first = key.substr(0, dot);
  if (!into.contains(first)) into.set(first, json::Object());
  json::Value* below = into.find(first);
  if (!below->is_object()) return fail("Cannot mix scalar and non-scalar keys");
  return insert(below->as_object(), key.substr(dot + 1), std::move(value), depth + 1);
}

Expected<json::Value> finish(json::Value value, const std::string& where, int depth) {
  if (!value.is_object()) return value;
  if (depth > kMaxFlatDepth) return fail(fmt::format("Parameter '{}' is nested too deeply", where));
  json::Object finished;
  for (const auto& [key, member] : value.as_object()) {
    auto done = finish(member, fmt::format("{}{}.", where, key), depth + 1);
    if (!done) return done;
    finished.set(key, std::move(*done));
  }
  return list_if_numbered(std::move(finished), where);
}

bool has_dots(const json::Object& options, int depth) {
  if (depth > kMaxFlatDepth) return true;
  return std::ranges::any_of(options.begin(), options.end(), [depth](const auto& member) {
    return member.first.find('.') != std::string::npos ||
           (member.second.is_object() && has_dots(member.second.as_object(), depth + 1));
  });
}

}  // namespace

void flatten_option(json::Object& into, const std::string& key, const json::Value& value) {
  // Last members first: of keys that share a place in the output, the one set last comes first.
  if (value.is_object()) {
    const json::Object& object = value.as_object();
    for (const json::Object::Member* member = object.end(); member != object.begin();) {
      --member;
      flatten_option(into, key + "." + member->first, member->second);
    }
  } else if (value.is_array()) {
    const json::Array& array = value.as_array();
    for (std::size_t index = array.size(); index-- > 0;) {
      flatten_option(into, fmt::format("{}.{}", key, index), array[index]);
    }
  } else {
    into.set(key, value);
  }
}

Expected<json::Object> nest_options(json::Object options) {
  if (!has_dots(options, 0)) return options;
  json::Object tree;
  for (const auto& [key, value] : options) {
    json::Value member = value;
    if (member.is_object()) {
      auto nested = nest_options(std::move(member.as_object()));
      if (!nested) return nested;
      member = std::move(*nested);
    }
    BB_TRY(insert(tree, key, std::move(member), 0));
  }
  auto finished = finish(json::Value(std::move(tree)), "", 0);
  if (!finished) return fail(std::move(finished).error());
  if (!finished->is_object()) return fail("Cannot mix list and non-list keys");
  return std::move(finished->as_object());
}

}  // namespace blockbed
