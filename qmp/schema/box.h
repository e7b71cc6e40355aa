// A value kept on the heap, for types that contain themselves.
//
// Problem: BlockdevOptions holds BlockdevRef, and BlockdevRef may hold BlockdevOptions.
// Contract: Box<T> behaves as the T it owns: it is never empty, a copy copies the value, equality
// compares values. A box that was moved from may only be destroyed or assigned to. T may be
// incomplete where Box<T> is a member. Threading: plain data.
#pragma once

#include <memory>
#include <utility>

namespace blockbed::schema {

template <class T>
class Box {
 public:
  Box() : value_(std::make_unique<T>()) {}
  Box(const T& value) : value_(std::make_unique<T>(value)) {}
  Box(T&& value) : value_(std::make_unique<T>(std::move(value))) {}
  Box(const Box& other) : value_(std::make_unique<T>(*other)) {}
  Box(Box&& other) noexcept : value_(std::move(other.value_)) {}
  // The argument is a copy already or is given up by the caller; either way it is taken over.
  Box& operator=(Box other) noexcept {
    value_ = std::move(other.value_);
    return *this;
  }
  ~Box() = default;

  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return value_.get(); }
  const T* operator->() const { return value_.get(); }

  friend bool operator==(const Box& a, const Box& b) { return *a == *b; }

 private:
  std::unique_ptr<T> value_;
};

}  // namespace blockbed::schema
