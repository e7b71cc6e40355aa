// Reads JSON into the generated types: strictly, and with the words QEMU has for every mistake.
//
// Problem: clients compare error texts, and a text names the place by its full path
// (`actions[0].data.node`). The path is needed only when something is wrong, so nothing may be
// spent on it while all is well.
//
// Contract
//  - Generated code calls `read(reader, value, out)`; false means that `reader.error()` says what
//    is wrong and that `out` is unspecified. The first mistake, in the order of the schema's
//    members, wins; members that nobody asked for are looked at last. That is QEMU's order.
//  - Mode::kStrict takes JSON as a monitor command has it. Mode::kKeyval takes what command lines
//    of the form a.b=c become (keyval.h): every scalar is a string.
//  - Where QEMU names only the last part of a path (enum values, ranges, alternates) so does this;
//    an element of an array then is called 'null'.
//  - When several members are unexpected, which of them is named is not specified (QEMU's choice
//    follows a hash).
// Threading: a Reader belongs to one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/schema/codec.h"

namespace blockbed::schema {

class Reader {
 public:
  explicit Reader(Mode mode) : mode_(mode) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // One step of the path, alive while its value is read.
  class Place {
   public:
    Place(Reader& reader, std::string_view name)
        : reader_(reader), up_(reader.place_), name_(name) {
      reader.place_ = this;
    }
    Place(Reader& reader, size_t index)
        : reader_(reader), up_(reader.place_), index_(index), is_index_(true) {
      reader.place_ = this;
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() { reader_.place_ = up_; }

   private:
    friend class Reader;
    Reader& reader_;
    const Place* up_;
    std::string_view name_;
    size_t index_ = 0;
    bool is_index_ = false;
  };

  Mode mode() const { return mode_; }
  const Error& error() const { return error_; }
  Error take_error() { return std::move(error_); }

  // Each records an error and returns false.
  bool fail_missing(std::string_view member);
  bool fail_unexpected(std::string_view member);
  // `Invalid parameter type for 'full.path', expected: X`
  bool fail_type(std::string_view expected);
  // The same with the last part of the path.
  bool fail_alternate(std::string_view alternate);
  // `Parameter 'full.path' expects X`
  bool fail_expects(std::string_view what);
  // The same with the last part of the path.
  bool fail_range(std::string_view type);
  bool fail_enum(std::string_view text);

  // The text of a scalar in keyval mode; null, with an error, when the value has parts.
  const std::string* keyval_text(const json::Value& value);

 private:
  std::string path() const;
  std::string path_of(std::string_view member) const;
  std::string_view last() const;
  bool fail_with(std::string text);

  const Mode mode_;
  const Place* place_ = nullptr;
  Error error_;
};

// Every overload: true when `value` has the form of `out`.
bool read(Reader& reader, const json::Value& value, bool& out);
bool read(Reader& reader, const json::Value& value, int8_t& out);
bool read(Reader& reader, const json::Value& value, int16_t& out);
bool read(Reader& reader, const json::Value& value, int32_t& out);
bool read(Reader& reader, const json::Value& value, int64_t& out);
bool read(Reader& reader, const json::Value& value, uint8_t& out);
bool read(Reader& reader, const json::Value& value, uint16_t& out);
bool read(Reader& reader, const json::Value& value, uint32_t& out);
bool read(Reader& reader, const json::Value& value, uint64_t& out);
bool read(Reader& reader, const json::Value& value, double& out);
bool read(Reader& reader, const json::Value& value, std::string& out);
bool read(Reader& reader, const json::Value& value, json::Null& out);
bool read(Reader& reader, const json::Value& value, json::Value& out);
// `size` of the schema: in keyval mode it may end in a unit, `64k`.
bool read_size(Reader& reader, const json::Value& value, uint64_t& out);
// Null, with an error, when the value is no array.
const json::Array* read_array(Reader& reader, const json::Value& value);

template <class T>
bool read(Reader& reader, const json::Value& value, std::vector<T>& out) {
  const json::Array* array = read_array(reader, value);
  if (array == nullptr) return false;
  out.clear();
  out.reserve(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    Reader::Place place(reader, i);
    if (!read(reader, (*array)[i], out.emplace_back())) return false;
  }
  return true;
}

template <class T>
bool read(Reader& reader, const json::Value& value, Box<T>& out) {
  return read(reader, value, *out);
}

// Reads the members of one object and knows which of them nobody asked for.
class ObjectReader {
 public:
  // False in a boolean sense, with an error recorded, when the value is no object.
  ObjectReader(Reader& reader, const json::Value& value);

  explicit operator bool() const { return object_ != nullptr; }
  Reader& reader() { return reader_; }

  // Null when the member is absent; otherwise it counts as asked for.
  const json::Value* take(std::string_view name);
  // The same, and its absence is an error.
  const json::Value* take_required(std::string_view name);

  template <class T>
  bool required(std::string_view name, T& out) {
    const json::Value* value = take_required(name);
    if (value == nullptr) return false;
    Reader::Place place(reader_, name);
    return read(reader_, *value, out);
  }
  template <class T>
  bool optional(std::string_view name, std::optional<T>& out) {
    const json::Value* value = take(name);
    if (value == nullptr) return true;
    Reader::Place place(reader_, name);
    return read(reader_, *value, out.emplace());
  }
  // Leaves the default that `out` has when the member is absent.
  template <class T>
  bool defaulted(std::string_view name, T& out) {
    const json::Value* value = take(name);
    if (value == nullptr) return true;
    Reader::Place place(reader_, name);
    return read(reader_, *value, out);
  }
  bool required_size(std::string_view name, uint64_t& out);
  bool optional_size(std::string_view name, std::optional<uint64_t>& out);
  bool defaulted_size(std::string_view name, uint64_t& out);

  // Takes everything that is left, for objects that are open to more than the schema names.
  bool rest(json::Object& out);
  // An error when something is left.
  bool finish();

 private:
  bool is_taken(size_t index) const;

  Reader& reader_;
  const json::Object* object_ = nullptr;
  size_t taken_ = 0;
  // The first 64 members are marked in a word; objects of the protocol rarely have more.
  uint64_t marks_ = 0;
  std::vector<bool> more_marks_;
};

template <class T>
void write_optional(json::Object& out, std::string_view name, const std::optional<T>& value) {
  if (value.has_value()) out.set(name, to_json(*value));
}

}  // namespace blockbed::schema
