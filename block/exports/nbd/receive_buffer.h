// ReceiveBuffer: the bytes that one receive brought and that are not yet taken.
//
// Problem: a client sends many small requests at once; one receive should bring them all, and what
// is left of a request that came in part is moved to the front only when room is needed.
//
// Contract: `bytes()` is valid until the next free_space() or take(). Units: bytes. Threading:
// plain data.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "block/runtime/assert.h"
#include "block/runtime/buffers.h"

namespace blockbed::nbd {

class ReceiveBuffer {
 public:
  // Sixteen writes of 4 KiB and their headers, twice.
  static constexpr std::size_t kSize = std::size_t{128} << 10;

  ReceiveBuffer() : buffer_(kSize) {}

  std::span<const std::byte> bytes() const { return {buffer_.data() + begin_, end_ - begin_}; }
  std::size_t size() const { return end_ - begin_; }

  void take(std::size_t length) {
    BB_ASSERT(length <= size());
    begin_ += length;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  void take_into(void* out, std::size_t length) {
    std::memcpy(out, buffer_.data() + begin_, length);
    take(length);
  }

  // Where the next receive goes; room for at least `wanted` bytes in all, counted from the first
  // byte not yet taken.
  std::span<std::byte> free_space(std::size_t wanted) {
    BB_ASSERT(wanted <= kSize && wanted > size());
    if (begin_ + wanted > kSize) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, size());
      end_ -= begin_;
      begin_ = 0;
    }
    return {buffer_.data() + end_, kSize - end_};
  }
  void received(std::size_t length) {
    BB_ASSERT(length <= kSize - end_);
    end_ += length;
  }

 private:
  Buffer buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace blockbed::nbd
