// JSON values as QEMU's monitor protocol has them.
//
// Problem: clients compare what a server sends down to the order of the keys, and send integers
// that need all 64 bits, signed and unsigned. A general JSON library loses one or the other.
//
// Contract
//  - An integer is int64 or uint64; the unsigned form holds only what int64 cannot, so equal
//    numbers have equal forms.
//  - An object keeps its members in the order of insertion and holds a key once. The writer, not
//    the object, knows the order in which QEMU prints keys (see json_write.h).
//  - Values own what they hold; destruction of a deep tree does not recurse without bound because
//    the parser bounds depth at kMaxDepth (QEMU's limit).
// Threading: plain data, no shared state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace blockbed::json {

// QEMU refuses deeper nesting with "JSON nesting depth limit exceeded".
inline constexpr int kMaxDepth = 1024;

class Value;
using Array = std::vector<Value>;

class Object {
 public:
  using Member = std::pair<std::string, Value>;

  Object() = default;
  Object(std::initializer_list<Member> members);
  // Out of line, here and in Value: every file that sees this header would compile them again.
  Object(const Object&);
  Object(Object&&) noexcept;
  Object& operator=(const Object&);
  Object& operator=(Object&&) noexcept;
  ~Object();

  // Null when the key is absent.
  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  // Appends the member, or replaces the value of a key that is there (its place stays).
  void set(std::string_view key, Value value);
  // Appends a member whose key the caller knows to be absent: no search. For builders of large
  // objects.
  void append_new(std::string key, Value value);
  void reserve(size_t members);
  // False when the key was not there.
  bool erase(std::string_view key);
  // Removes the member and hands its value over; the key must be there.
  Value take(std::string_view key);

  bool empty() const;
  size_t size() const;
  // In the order of insertion.
  const Member* begin() const;
  const Member* end() const;

  // Equal when they hold the same members, in whatever order.
  friend bool operator==(const Object& a, const Object& b);

 private:
  std::vector<Member> members_;
};

struct Null {
  friend bool operator==(Null, Null) { return true; }
};

class Value {
 public:
  Value() : data_(Null{}) {}
  Value(Null) : data_(Null{}) {}
  Value(bool b) : data_(b) {}
  Value(int v) : data_(int64_t{v}) {}
  Value(unsigned v) : data_(int64_t{v}) {}
  Value(long v) : data_(int64_t{v}) {}
  Value(long long v) : data_(int64_t{v}) {}
  Value(unsigned long v) { set_unsigned(v); }
  Value(unsigned long long v) { set_unsigned(v); }
  Value(double v) : data_(v) {}
  Value(std::string s) : data_(std::move(s)) {}
  Value(std::string_view s) : data_(std::string(s)) {}
  Value(const char* s) : data_(std::string(s)) {}
  Value(Array a) : data_(std::move(a)) {}
  Value(Object o) : data_(std::move(o)) {}
  Value(const Value&);
  Value(Value&&) noexcept;
  Value& operator=(const Value&);
  Value& operator=(Value&&) noexcept;
  ~Value();

  bool is_null() const { return std::holds_alternative<Null>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return is_int64() || std::holds_alternative<uint64_t>(data_); }
  bool is_int64() const { return std::holds_alternative<int64_t>(data_); }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(data_); }
  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_array() const { return std::holds_alternative<Array>(data_); }
  bool is_object() const { return std::holds_alternative<Object>(data_); }

  // The value must have that form: asserted, for our own mistakes only.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int64() const { return std::get<int64_t>(data_); }
  // A non-negative integer of either form.
  uint64_t as_uint64() const;
  // Any number.
  double as_double() const;
  const std::string& as_string() const { return std::get<std::string>(data_); }
  std::string& as_string() { return std::get<std::string>(data_); }
  const Array& as_array() const { return std::get<Array>(data_); }
  Array& as_array() { return std::get<Array>(data_); }
  const Object& as_object() const { return std::get<Object>(data_); }
  Object& as_object() { return std::get<Object>(data_); }

  // Forms for code that must handle each one.
  const auto& data() const { return data_; }

  friend bool operator==(const Value& a, const Value& b);

 private:
  void set_unsigned(uint64_t v) {
    if (v <= static_cast<uint64_t>(INT64_MAX)) {
      data_ = static_cast<int64_t>(v);
    } else {
      data_ = v;
    }
  }

  std::variant<Null, bool, int64_t, uint64_t, double, std::string, Array, Object> data_;
};

// Here because a member's size is only known now.
inline bool Object::empty() const { return members_.empty(); }
inline size_t Object::size() const { return members_.size(); }
inline const Object::Member* Object::begin() const { return members_.data(); }
inline const Object::Member* Object::end() const { return members_.data() + members_.size(); }

}  // namespace blockbed::json
