#include "block/graph/backing_definition.h"

#include <fmt/format.h>

namespace blockbed {

namespace {

std::unexpected<Error> named_twice() {
  return fail("Can't specify 'file' and 'filename' options at the same time");
}

Expected<void> check_protocol(const DriverEntry& entry, const json::Object& definition,
                              const std::string& header_name) {
  if (definition.contains("filename")) return named_twice();
  if (entry.parse_filename == nullptr) return {};
  auto parsed = entry.parse_filename(header_name);
  return parsed ? Expected<void>() : fail(std::move(parsed).error());
}

// The header's name is meant for the lowest file.
Expected<void> check_takes_name(const DriverRegistry& drivers, const json::Object& definition,
                                const std::string& header_name) {
  const DriverEntry* entry = drivers.find(definition.find("driver")->as_string());
  if (entry == nullptr) return {};
  const bool takes_file = entry->named_child.empty();
  if (entry->is_protocol && takes_file) return check_protocol(*entry, definition, header_name);
  const json::Value* child = definition.find(takes_file ? "file" : entry->named_child);
  if (child == nullptr) {
    return fail(fmt::format("Block format '{}' does not support the option 'file'", entry->name));
  }
  if (child->is_string()) {
    return fail(
        "Cannot reference an existing block device with additional options or a new filename");
  }
  return takes_file ? check_takes_name(drivers, child->as_object(), header_name) : named_twice();
}

}  // namespace

Expected<void> check_beside_header_name(const DriverRegistry& drivers,
                                        const json::Object& definition,
                                        const std::string& header_name) {
  // Only here QEMU looks for a name of the definition's own.
  const json::Value* file = definition.find("file");
  if (file != nullptr && file->is_object() && file->as_object().contains("filename")) return {};
  return check_takes_name(drivers, definition, header_name);
}

}  // namespace blockbed
