// A value kept on the heap, for types that contain themselves.
//
// Problem: BlockdevOptions holds BlockdevRef, and BlockdevRef may hold BlockdevOptions.
// Contract: Box<T> behaves as the T it owns: a copy copies the value, equality compares values. A
// default-made box makes its T when it is first looked at, because a type that contains itself
// cannot be made whole at once. T may be incomplete where Box<T> is a member.
// Threading: plain data, but the first look at a default-made box is a write.
#pragma once

#include <memory>
#include <utility>

namespace blockbed::schema {

template <class T>
class Box {
 public:
  Box() = default;
  Box(const T& value) : value_(std::make_unique<T>(value)) {}
  Box(T&& value) : value_(std::make_unique<T>(std::move(value))) {}
  Box(const Box& other) : value_(other.value_ ? std::make_unique<T>(*other.value_) : nullptr) {}
  Box(Box&& other) noexcept = default;
  // The argument is a copy already or is given up by the caller; either way it is taken over.
  Box& operator=(Box other) noexcept {
    value_ = std::move(other.value_);
    return *this;
  }
  ~Box() = default;

  T& operator*() { return get(); }
  const T& operator*() const { return get(); }
  T* operator->() { return &get(); }
  const T* operator->() const { return &get(); }

  friend bool operator==(const Box& a, const Box& b) { return *a == *b; }

 private:
  T& get() const {
    if (!value_) value_ = std::make_unique<T>();
    return *value_;
  }

  mutable std::unique_ptr<T> value_;
};

}  // namespace blockbed::schema
