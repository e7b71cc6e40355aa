// A value kept on the heap, for types that contain themselves.
//
// Problem: BlockdevOptions holds BlockdevRef, and BlockdevRef may hold BlockdevOptions.
// Contract: Box<T> behaves as the T it owns: a copy copies the value, equality compares values. A
// default-made box makes its T when it is first looked at, because a type that contains itself
// cannot be made whole at once. T may be incomplete where Box<T> is a member.
// Threading: plain data, but the first look at a default-made box is a write.
#pragma once

#include <utility>

namespace blockbed::schema {

// Owns by hand: <memory> would double what every file that includes a generated header pays.
template <class T>
class Box {
 public:
  Box() : value_(new T()) {}
  Box(const T& value) : value_(new T(value)) {}
  Box(T&& value) : value_(new T(std::move(value))) {}
  Box(const Box& other) : value_(new T(*other)) {}
  Box(Box&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  // The argument is a copy already or is given up by the caller; either way it is taken over.
  Box& operator=(Box other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Box() { delete value_; }

  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return value_; }
  const T* operator->() const { return value_; }

  friend bool operator==(const Box& a, const Box& b) { return *a == *b; }

 private:
  T* value_;
};

}  // namespace blockbed::schema
