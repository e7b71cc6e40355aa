// Enums by their names, for generated code.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "qmp/schema/reader.h"

namespace blockbed::schema {

std::optional<size_t> index_of(std::span<const std::string_view> names, std::string_view text);
// False, with QEMU's error recorded, when the value is no string or none of the names.
bool read_enum(Reader& reader, const json::Value& value, std::span<const std::string_view> names,
               size_t& index);

}  // namespace blockbed::schema
