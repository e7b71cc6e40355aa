#include "qmp/schema/reader.h"

#include <charconv>
#include <limits>
#include <string>

#include "qmp/schema/scalar_text.h"

namespace blockbed::schema {

namespace {

std::string quoted(std::string_view prefix, std::string_view name, std::string_view suffix) {
  std::string text;
  text.reserve(prefix.size() + name.size() + suffix.size() + 2);
  text.append(prefix).append("'").append(name).append("'").append(suffix);
  return text;
}

template <class Narrow, class Wide>
bool read_narrow(Reader& reader, const json::Value& value, Narrow& out, std::string_view type) {
  Wide wide = 0;
  if (!read(reader, value, wide)) return false;
  if (wide < Wide{std::numeric_limits<Narrow>::min()} ||
      wide > Wide{std::numeric_limits<Narrow>::max()}) {
    return reader.fail_range(type);
  }
  out = static_cast<Narrow>(wide);
  return true;
}

}  // namespace

// Paths and errors

std::string Reader::path() const {
  std::string text;
  for (const Place* place = place_; place != nullptr; place = place->up_) {
    std::string step;
    if (place->is_index_) {
      step = mode_ == Mode::kKeyval ? "." + std::to_string(place->index_)
                                    : "[" + std::to_string(place->index_) + "]";
    } else {
      step.append(place->up_ != nullptr ? "." : "").append(place->name_);
    }
    text.insert(0, step);
  }
  // QEMU's name for a value that is no member of anything.
  return text.empty() ? "<anonymous>" : text;
}

std::string Reader::path_of(std::string_view member) const {
  return place_ == nullptr ? std::string(member) : path() + "." + std::string(member);
}

std::string_view Reader::last() const {
  return place_ == nullptr || place_->is_index_ ? std::string_view("null") : place_->name_;
}

bool Reader::fail_with(std::string text) {
  error_ = Error(std::move(text));
  return false;
}

bool Reader::fail_missing(std::string_view member) {
  return fail_with(quoted("Parameter ", path_of(member), " is missing"));
}

bool Reader::fail_unexpected(std::string_view member) {
  return fail_with(quoted("Parameter ", path_of(member), " is unexpected"));
}

bool Reader::fail_type(std::string_view expected) {
  return fail_with(quoted("Invalid parameter type for ", path(), ", expected: ") +
                   std::string(expected));
}

bool Reader::fail_alternate(std::string_view alternate) {
  return fail_with(quoted("Invalid parameter type for ", last(), ", expected: ") +
                   std::string(alternate));
}

bool Reader::fail_expects(std::string_view what) {
  return fail_with(quoted("Parameter ", path(), " expects ") + std::string(what));
}

bool Reader::fail_range(std::string_view type) {
  return fail_with(quoted("Parameter ", last(), " expects ") + std::string(type));
}

bool Reader::fail_enum(std::string_view text) {
  return fail_with(quoted(quoted("Parameter ", last(), " does not accept value "), text, ""));
}

const std::string* Reader::keyval_text(const json::Value& value) {
  if (value.is_string()) return &value.as_string();
  fail_with(quoted("Parameters ", path() + ".*", " are unexpected"));
  return nullptr;
}

// Scalars. A command line has them as text, save what lies within a json:{...} name.

bool read(Reader& reader, const json::Value& value, bool& out) {
  if (reader.mode() == Mode::kKeyval && !value.is_bool()) {
    const std::string* text = reader.keyval_text(value);
    if (text == nullptr) return false;
    std::optional<bool> parsed = parse_switch(*text);
    if (!parsed) return reader.fail_expects("'on' or 'off'");
    out = *parsed;
    return true;
  }
  if (!value.is_bool()) return reader.fail_type("boolean");
  out = value.as_bool();
  return true;
}

bool read(Reader& reader, const json::Value& value, int64_t& out) {
  if (reader.mode() == Mode::kKeyval && !value.is_number()) {
    const std::string* text = reader.keyval_text(value);
    if (text == nullptr) return false;
    std::optional<int64_t> parsed = parse_int64(*text);
    if (!parsed) return reader.fail_expects("integer");
    out = *parsed;
    return true;
  }
  if (!value.is_int64()) return reader.fail_type("integer");
  out = value.as_int64();
  return true;
}

bool read(Reader& reader, const json::Value& value, uint64_t& out) {
  if (reader.mode() == Mode::kKeyval && !value.is_number()) {
    const std::string* text = reader.keyval_text(value);
    if (text == nullptr) return false;
    std::optional<uint64_t> parsed = parse_uint64(*text);
    if (!parsed) return reader.fail_expects("integer");
    out = *parsed;
    return true;
  }
  if (!value.is_integer()) return reader.fail_expects("uint64");
  // QEMU takes a negative number for the unsigned one with the same bits.
  out = value.is_int64() ? static_cast<uint64_t>(value.as_int64()) : value.as_uint64();
  return true;
}

bool read(Reader& reader, const json::Value& value, int8_t& out) {
  return read_narrow<int8_t, int64_t>(reader, value, out, "int8_t");
}
bool read(Reader& reader, const json::Value& value, int16_t& out) {
  return read_narrow<int16_t, int64_t>(reader, value, out, "int16_t");
}
bool read(Reader& reader, const json::Value& value, int32_t& out) {
  return read_narrow<int32_t, int64_t>(reader, value, out, "int32_t");
}
bool read(Reader& reader, const json::Value& value, uint8_t& out) {
  return read_narrow<uint8_t, uint64_t>(reader, value, out, "uint8_t");
}
bool read(Reader& reader, const json::Value& value, uint16_t& out) {
  return read_narrow<uint16_t, uint64_t>(reader, value, out, "uint16_t");
}
bool read(Reader& reader, const json::Value& value, uint32_t& out) {
  return read_narrow<uint32_t, uint64_t>(reader, value, out, "uint32_t");
}

bool read(Reader& reader, const json::Value& value, double& out) {
  if (reader.mode() == Mode::kKeyval && !value.is_number()) {
    const std::string* text = reader.keyval_text(value);
    if (text == nullptr) return false;
    std::optional<double> parsed = parse_finite(*text);
    if (!parsed) return reader.fail_type("number");
    out = *parsed;
    return true;
  }
  if (!value.is_number()) return reader.fail_type("number");
  out = value.as_double();
  return true;
}

bool read(Reader& reader, const json::Value& value, std::string& out) {
  if (reader.mode() == Mode::kKeyval) {
    const std::string* text = reader.keyval_text(value);
    if (text == nullptr) return false;
    out = *text;
    return true;
  }
  if (!value.is_string()) return reader.fail_type("string");
  out = value.as_string();
  return true;
}

bool read(Reader& reader, const json::Value& value, json::Null&) {
  // A command line writes null as nothing at all: `backing=`.
  bool is_null = value.is_null() ||
                 (reader.mode() == Mode::kKeyval && value.is_string() && value.as_string().empty());
  return is_null || reader.fail_type("null");
}

bool read(Reader&, const json::Value& value, json::Value& out) {
  out = value;
  return true;
}

bool read_size(Reader& reader, const json::Value& value, uint64_t& out) {
  if (reader.mode() == Mode::kStrict) return read(reader, value, out);
  const std::string* text = reader.keyval_text(value);
  if (text == nullptr) return false;
  std::optional<uint64_t> parsed = parse_size(*text);
  if (!parsed) return reader.fail_expects("size");
  out = *parsed;
  return true;
}

const json::Array* read_array(Reader& reader, const json::Value& value) {
  if (value.is_array()) return &value.as_array();
  reader.fail_type("array");
  return nullptr;
}

std::optional<Error> read_with(Mode mode, const json::Value& value, void* out,
                               bool (*read)(Reader& reader, const json::Value& value, void* out)) {
  Reader reader(mode);
  if (read(reader, value, out)) return std::nullopt;
  return reader.take_error();
}

bool read_members(ObjectReader&, Nothing&) { return true; }

bool read(Reader& reader, const json::Value& value, Nothing&) {
  ObjectReader object(reader, value);
  return object && object.finish();
}

// Objects

ObjectReader::ObjectReader(Reader& reader, const json::Value& value) : reader_(reader) {
  if (!value.is_object()) {
    reader.fail_type("object");
    return;
  }
  object_ = &value.as_object();
  if (object_->size() > 64) more_marks_.resize(object_->size() - 64);
}

const json::Value* ObjectReader::take(std::string_view name) {
  const json::Value* value = object_->find(name);
  if (value == nullptr) return nullptr;
  size_t index = 0;
  for (const json::Object::Member& member : *object_) {
    if (&member.second == value) break;
    ++index;
  }
  if (!is_taken(index)) {
    ++taken_;
    if (index < 64) {
      marks_ |= uint64_t{1} << index;
    } else {
      more_marks_[index - 64] = true;
    }
  }
  return value;
}

const json::Value* ObjectReader::take_required(std::string_view name) {
  const json::Value* value = take(name);
  if (value == nullptr) reader_.fail_missing(name);
  return value;
}

bool ObjectReader::required_size(std::string_view name, uint64_t& out) {
  const json::Value* value = take_required(name);
  if (value == nullptr) return false;
  Reader::Place place(reader_, name);
  return read_size(reader_, *value, out);
}

bool ObjectReader::optional_size(std::string_view name, std::optional<uint64_t>& out) {
  const json::Value* value = take(name);
  if (value == nullptr) return true;
  Reader::Place place(reader_, name);
  return read_size(reader_, *value, out.emplace());
}

bool ObjectReader::defaulted_size(std::string_view name, uint64_t& out) {
  const json::Value* value = take(name);
  if (value == nullptr) return true;
  Reader::Place place(reader_, name);
  return read_size(reader_, *value, out);
}

bool ObjectReader::is_taken(size_t index) const {
  return index < 64 ? (marks_ >> index & 1) != 0 : more_marks_[index - 64];
}

bool ObjectReader::rest(json::Object& out) {
  size_t index = 0;
  for (const json::Object::Member& member : *object_) {
    if (!is_taken(index++)) out.set(member.first, member.second);
  }
  taken_ = object_->size();
  return true;
}

bool ObjectReader::finish() {
  if (taken_ == object_->size()) return true;
  size_t index = 0;
  for (const json::Object::Member& member : *object_) {
    if (!is_taken(index++)) return reader_.fail_unexpected(member.first);
  }
  return true;
}

}  // namespace blockbed::schema
