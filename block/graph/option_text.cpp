#include "block/graph/option_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/runtime/result.h"
#include "qmp/schema/json_write.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

std::unexpected<Error> no_size(std::string_view name) {
  Error error(fmt::format("Parameter '{}' expects a non-negative number below 2^64", name));
  error.hint =
      "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
      "and exabytes, respectively.";
  return fail(std::move(error));
}

Expected<std::optional<uint64_t>> size_option(std::string_view name, std::optional<int64_t> value) {
  if (!value) return std::optional<uint64_t>();
  if (*value < 0) return no_size(name);
  return static_cast<uint64_t>(*value);
}

Expected<void> read_size_text(json::Object& options,
                              std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    json::Value* value = options.find(name);
    if (value == nullptr || !value->is_string()) continue;
    const std::optional<uint64_t> size = schema::parse_size(value->as_string());
    if (!size) return no_size(name);
    // Nothing is as large as that; the checks of sizes say so.
    *value = json::Value(std::to_string(std::min<uint64_t>(*size, INT64_MAX)));
  }
  return {};
}

json::Value as_option_text(const json::Value& value) {
  if (value.is_bool()) return value.as_bool() ? "on" : "off";
  if (value.is_object()) {
    json::Object members;
    for (const auto& [name, member] : value.as_object()) members.set(name, as_option_text(member));
    return members;
  }
  if (value.is_array()) {
    json::Array members;
    for (const json::Value& member : value.as_array()) members.push_back(as_option_text(member));
    return members;
  }
  return value.is_string() ? value : json::Value(json::to_string(value));
}

void options_to_text(json::Object& options) {
  json::Object text;
  for (const auto& [name, member] : options) {
    json::Value value = member;
    if (name == "backing" && (value.is_null() || value == json::Value(json::Object()))) {
      text.set(name, std::move(value));
      continue;
    }
    if (value.is_object()) {
      options_to_text(value.as_object());
      if (value.as_object().empty()) continue;
    } else if (value.is_array()) {
      for (json::Value& element : value.as_array()) {
        if (element.is_object()) {
          options_to_text(element.as_object());
        } else {
          element = as_option_text(element);
        }
      }
      if (value.as_array().empty()) continue;
    } else if (value.is_null()) {
      continue;
    } else {
      value = as_option_text(value);
    }
    text.set(name, std::move(value));
  }
  options = std::move(text);
}

Expected<void> read_option_text(const DriverRegistry& drivers, json::Object& options) {
  for (const auto& [key, member] : options) {
    json::Value& value = *options.find(key);
    if (value.is_object()) BB_TRY(read_option_text(drivers, value.as_object()));
    if (!value.is_array()) continue;
    for (json::Value& element : value.as_array()) {
      if (element.is_object()) BB_TRY(read_option_text(drivers, element.as_object()));
    }
  }
  const json::Value* driver = options.find("driver");
  if (driver == nullptr || !driver->is_string()) return {};
  if (json::Value* discard = options.find("discard"); discard != nullptr && discard->is_string()) {
    const std::string& text = discard->as_string();
    if (text == "on" || text == "unmap") {
      *discard = json::Value("unmap");
    } else if (text == "off" || text == "ignore") {
      *discard = json::Value("ignore");
    } else {
      return fail("Invalid discard option");
    }
  }
  const DriverEntry* entry = drivers.find(driver->as_string());
  if (entry == nullptr || entry->read_text == nullptr) return {};
  return entry->read_text(options);
}

}  // namespace blockbed
