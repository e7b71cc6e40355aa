#include "qmp/schema/json.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace blockbed::json {
namespace {

[[noreturn]] void misuse(const char* what) {
  std::fprintf(stderr, "json::Value misused: %s\n", what);
  std::abort();
}

}  // namespace

Object::Object(std::initializer_list<Member> members) {
  members_.reserve(members.size());
  for (const Member& member : members) set(member.first, member.second);
}

const Value* Object::find(std::string_view key) const {
  for (const Member& member : members_) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

Value* Object::find(std::string_view key) {
  return const_cast<Value*>(static_cast<const Object*>(this)->find(key));
}

void Object::set(std::string_view key, Value value) {
  if (Value* present = find(key)) {
    *present = std::move(value);
  } else {
    append_new(std::string(key), std::move(value));
  }
}

void Object::append_new(std::string key, Value value) {
  members_.emplace_back(std::move(key), std::move(value));
}

void Object::reserve(size_t members) { members_.reserve(members); }

bool Object::erase(std::string_view key) {
  const auto it = std::ranges::find(members_, key, &Member::first);
  if (it == members_.end()) return false;
  members_.erase(it);
  return true;
}

Value Object::take(std::string_view key) {
  const auto it = std::ranges::find(members_, key, &Member::first);
  if (it == members_.end()) misuse("take() of a key that is not there");
  Value value = std::move(it->second);
  members_.erase(it);
  return value;
}

bool operator==(const Object& a, const Object& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.members_) {
    const Value* other = b.find(key);
    if (other == nullptr || !(*other == value)) return false;
  }
  return true;
}

Object::Object(const Object&) = default;
Object::Object(Object&&) noexcept = default;
Object& Object::operator=(const Object&) = default;
Object& Object::operator=(Object&&) noexcept = default;
Object::~Object() = default;

Value::Value(const Value&) = default;
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(const Value&) = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::~Value() = default;

bool operator==(const Value& a, const Value& b) { return a.data_ == b.data_; }

uint64_t Value::as_uint64() const {
  if (const auto* u = std::get_if<uint64_t>(&data_)) return *u;
  const auto* i = std::get_if<int64_t>(&data_);
  if (i == nullptr || *i < 0) misuse("as_uint64() of what is no non-negative integer");
  return static_cast<uint64_t>(*i);
}

double Value::as_double() const {
  if (const auto* d = std::get_if<double>(&data_)) return *d;
  if (const auto* i = std::get_if<int64_t>(&data_)) return static_cast<double>(*i);
  if (const auto* u = std::get_if<uint64_t>(&data_)) return static_cast<double>(*u);
  misuse("as_double() of what is no number");
}

}  // namespace blockbed::json
