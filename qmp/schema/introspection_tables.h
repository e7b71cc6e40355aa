// The constant tables that generate.py writes for introspect.cpp. Rows name each other by index.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace blockbed::schema::introspection {

// A stretch of another table.
struct Range {
  uint16_t first = 0;
  uint16_t count = 0;
};

// A member of an object, a value of an enum (no type), or a branch of an alternate (no name).
struct MemberRow {
  std::string_view name = {};
  uint16_t type = 0;
  bool optional = false;
  Range features = {};
};

struct VariantRow {
  std::string_view name = {};
  uint16_t type = 0;
};

enum class Kind : uint8_t { kBuiltin, kEnum, kArray, kObject, kAlternate };

struct TypeRow {
  Kind kind = Kind::kBuiltin;
  // Of a built-in type: its name and the JSON type that it is.
  std::string_view name = {};
  std::string_view json_type = {};
  // Of an array.
  uint16_t element = 0;
  Range members = {};
  // Of a union: the member that selects the variant.
  std::string_view tag = {};
  Range variants = {};
  Range features = {};
};

struct EntityRow {
  std::string_view name = {};
  bool is_event = false;
  bool oob = false;
  bool in_system = false;
  bool in_daemon = false;
  uint16_t argument = 0;
  // Of a command; without a result it is the empty object.
  uint16_t result = 0;
  Range features = {};
};

struct Tables {
  std::span<const EntityRow> entities;
  std::span<const TypeRow> types;
  std::span<const MemberRow> members;
  std::span<const VariantRow> variants;
  std::span<const std::string_view> features;
};

extern const Tables kTables;

}  // namespace blockbed::schema::introspection
