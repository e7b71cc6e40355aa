#include "qmp/schema/enum_names.h"

#include <string>

namespace blockbed::schema {

std::optional<size_t> index_of(std::span<const std::string_view> names, std::string_view text) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == text) return i;
  }
  return std::nullopt;
}

bool read_enum(Reader& reader, const json::Value& value, std::span<const std::string_view> names,
               size_t& index) {
  std::string text;
  if (!read(reader, value, text)) return false;
  std::optional<size_t> found = index_of(names, text);
  if (!found) return reader.fail_enum(text);
  index = *found;
  return true;
}

}  // namespace blockbed::schema
