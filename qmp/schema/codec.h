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
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/schema/box.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed::schema {

enum class Mode { kStrict, kKeyval };

class Reader;
class ObjectReader;

// A branch of a union that adds no members, and the arguments of a command that takes none.
struct Nothing {
  friend bool operator==(const Nothing&, const Nothing&) = default;
};

bool read(Reader& reader, const json::Value& value, Nothing& out);
bool read_members(ObjectReader& object, Nothing& out);

// Runs `read` on `out` with a Reader of that mode; the error if it fails.
std::optional<Error> read_with(Mode mode, const json::Value& value, void* out,
                               bool (*read)(Reader& reader, const json::Value& value, void* out));

template <class T>
Expected<T> from_json(const json::Value& value, Mode mode = Mode::kStrict) {
  Expected<T> out;
  auto read_it = [](Reader& reader, const json::Value& from, void* to) {
    return read(reader, from, *static_cast<T*>(to));
  };
  if (std::optional<Error> error = read_with(mode, value, &*out, read_it)) {
    out = std::unexpected(std::move(*error));
  }
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
inline json::Value to_json(const Nothing&) { return json::Object(); }
inline void write_members(json::Object&, const Nothing&) {}

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

}  // namespace blockbed::schema
