// From JSON to the generated types and back.
//
//   Expected<BlockdevOptions> options = from_json<BlockdevOptions>(arguments);
//   json::Value reply = to_json(info);
//
// Contract: from_json refuses what the schema does not allow, with QEMU's error text (reader.h);
// from_keyval does the same for the tree that a command line of the form a.b=c gives (keyval.h).
// to_json leaves absent optional members out and writes members that have a default always. The
// generated headers bring the overloads for their types. Threading: pure functions.
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <vector>

#include "qmp/schema/box.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"
#include "qmp/schema/reader.h"

namespace blockbed::schema {

// A branch of a union that adds no members, and the arguments of a command that takes none.
struct Nothing {
  friend bool operator==(const Nothing&, const Nothing&) = default;
};

bool read_members(ObjectReader& object, Nothing& out);
bool read(Reader& reader, const json::Value& value, Nothing& out);
inline json::Value to_json(const Nothing&) { return json::Object(); }
inline void write_members(json::Object&, const Nothing&) {}

template <class T>
Expected<T> from_json(const json::Value& value, Mode mode = Mode::kStrict) {
  Reader reader(mode);
  Expected<T> out;
  if (!read(reader, value, *out)) out = std::unexpected(reader.take_error());
  return out;
}

template <class T>
Expected<T> from_keyval(const json::Value& value) {
  return from_json<T>(value, Mode::kKeyval);
}

template <std::integral T>
json::Value to_json(T value) {
  return json::Value(value);
}
inline json::Value to_json(double value) { return value; }
inline json::Value to_json(const std::string& value) { return value; }
inline json::Value to_json(json::Null value) { return value; }
inline json::Value to_json(const json::Value& value) { return value; }

template <class T>
json::Value to_json(const Box<T>& value) {
  return to_json(*value);
}

template <class T>
json::Value to_json(const std::vector<T>& values) {
  json::Array array;
  array.reserve(values.size());
  for (const T& value : values) array.push_back(to_json(value));
  return array;
}

template <class T>
void write_optional(json::Object& out, std::string_view name, const std::optional<T>& value) {
  if (value.has_value()) out.set(name, to_json(*value));
}

}  // namespace blockbed::schema
