// Memory for I/O: lists of ranges that somebody else owns, and aligned buffers that own.
//
// Contract
//  - IoVector is a non-owning list of memory ranges, in order, as readv/writev take them. Reading
//    fills it, writing only looks at it. Slicing shares the memory. Up to kInline ranges need no
//    allocation.
//  - Buffer owns memory aligned to kBufferAlignment, enough for O_DIRECT on every block device;
//    contents start undefined.
// Units: bytes. Threading: plain data; freed buffers are recycled per thread.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace blockbed {

inline constexpr std::size_t kBufferAlignment = 4096;

class IoVector {
 public:
  IoVector() = default;
  IoVector(void* base, std::size_t length) { append(base, length); }
  explicit IoVector(std::span<std::byte> range) { append(range.data(), range.size()); }
  // For writes: the ranges are not written to.
  explicit IoVector(std::span<const std::byte> range) {
    append(const_cast<std::byte*>(range.data()), range.size());
  }

  void append(void* base, std::size_t length) {
    if (length == 0) return;
    size_ += length;
    if (count_ < kInline && spilled_.empty()) {
      inline_[count_++] = iovec{base, length};
      return;
    }
    if (spilled_.empty()) spilled_.assign(inline_.begin(), inline_.begin() + count_);
    spilled_.push_back(iovec{base, length});
    count_ = spilled_.size();
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<const iovec> ranges() const {
    return spilled_.empty() ? std::span<const iovec>(inline_.data(), count_)
                            : std::span<const iovec>(spilled_);
  }

  // [offset, offset + length) of this list; it must lie inside.
  IoVector slice(std::size_t offset, std::size_t length) const;

  void copy_to(void* target) const;
  void copy_from(const void* source) const;
  void fill(unsigned char byte) const;
  bool all_zero() const;
  // True when every range's address and length is a multiple of the alignment.
  bool aligned_to(std::size_t alignment) const;

 private:
  static constexpr std::size_t kInline = 2;

  std::array<iovec, kInline> inline_;
  std::size_t count_ = 0;
  std::size_t size_ = 0;
  std::vector<iovec> spilled_;
};

// True when all bytes are zero: as fast as memory is read.
bool all_zero(const void* data, std::size_t length);

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size);
  // Zero-filled.
  static Buffer zeroed(std::size_t size);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<std::byte> span() { return {data_, size_}; }
  std::span<const std::byte> span() const { return {data_, size_}; }
  IoVector io() const { return IoVector(data_, size_); }
  IoVector io(std::size_t offset, std::size_t length) const {
    return IoVector(data_ + offset, length);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace blockbed
