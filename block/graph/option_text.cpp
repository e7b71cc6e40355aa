#include "block/graph/option_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/runtime/result.h"
#include "qmp/schema/scalar_text.h"

namespace blockbed {

Expected<void> read_size_text(json::Object& options,
                              std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    json::Value* value = options.find(name);
    if (value == nullptr || !value->is_string()) continue;
    const std::optional<uint64_t> size = schema::parse_size(value->as_string());
    if (!size) {
      Error error(fmt::format("Parameter '{}' expects a non-negative number below 2^64", name));
      error.hint =
          "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
          "and exabytes, respectively.";
      return fail(std::move(error));
    }
    // Nothing is as large as that; the checks of sizes say so.
    *value = json::Value(std::to_string(std::min<uint64_t>(*size, INT64_MAX)));
  }
  return {};
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
