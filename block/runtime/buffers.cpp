#include "block/runtime/buffers.h"

#include <algorithm>
#include <bit>
#include <new>

#include "block/runtime/assert.h"

namespace blockbed {

IoVector IoVector::slice(std::size_t offset, std::size_t length) const {
  BB_ASSERT(offset <= size_ && length <= size_ - offset);
  IoVector result;
  for (const iovec& range : ranges()) {
    if (length == 0) break;
    if (offset >= range.iov_len) {
      offset -= range.iov_len;
      continue;
    }
    const std::size_t part = std::min(length, range.iov_len - offset);
    result.append(static_cast<std::byte*>(range.iov_base) + offset, part);
    offset = 0;
    length -= part;
  }
  return result;
}

void IoVector::copy_to(void* target) const {
  auto* out = static_cast<std::byte*>(target);
  for (const iovec& range : ranges()) {
    std::memcpy(out, range.iov_base, range.iov_len);
    out += range.iov_len;
  }
}

void IoVector::copy_from(const void* source) const {
  const auto* in = static_cast<const std::byte*>(source);
  for (const iovec& range : ranges()) {
    std::memcpy(range.iov_base, in, range.iov_len);
    in += range.iov_len;
  }
}

void IoVector::fill(unsigned char byte) const {
  for (const iovec& range : ranges()) std::memset(range.iov_base, byte, range.iov_len);
}

bool IoVector::all_zero() const {
  return std::ranges::all_of(
      ranges(), [](const iovec& r) { return blockbed::all_zero(r.iov_base, r.iov_len); });
}

bool IoVector::aligned_to(std::size_t alignment) const {
  return std::ranges::all_of(ranges(), [alignment](const iovec& r) {
    return reinterpret_cast<std::uintptr_t>(r.iov_base) % alignment == 0 &&
           r.iov_len % alignment == 0;
  });
}

bool all_zero(const void* data, std::size_t length) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  // A byte equal to its successor everywhere, and zero at the start: memcmp does the rest at full
  // speed.
  constexpr std::size_t kProbe = 16;
  const std::size_t probe = std::min(length, kProbe);
  for (std::size_t i = 0; i < probe; ++i) {
    if (bytes[i] != 0) return false;
  }
  return length <= kProbe || std::memcmp(bytes, bytes + kProbe, length - kProbe) == 0;
}

namespace {

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kRecycle = false;
#else
constexpr bool kRecycle = true;
#endif
#else
constexpr bool kRecycle = true;
#endif

// Buffers of 4 KiB to 2 MiB are recycled in classes of a power of two; what an idle thread keeps is
// bounded.
constexpr int kSmallestClass = 12;
constexpr int kLargestClass = 21;
constexpr std::size_t kKeptBytesPerClass = std::size_t{4} << 20;

struct FreeBuffers {
  std::array<std::vector<void*>, kLargestClass + 1> classes;
  ~FreeBuffers() {
    for (auto& list : classes) {
      for (void* block : list) ::operator delete(block, std::align_val_t{kBufferAlignment});
    }
  }
};

thread_local FreeBuffers free_buffers;

int class_of(std::size_t size) {
  return std::max(kSmallestClass, static_cast<int>(std::bit_width(size - 1)));
}

std::byte* allocate_buffer(std::size_t size) {
  const int c = size <= 1 ? kSmallestClass : class_of(size);
  if (kRecycle && c <= kLargestClass) {
    auto& list = free_buffers.classes[static_cast<std::size_t>(c)];
    if (!list.empty()) {
      void* block = list.back();
      list.pop_back();
      return static_cast<std::byte*>(block);
    }
    return static_cast<std::byte*>(
        ::operator new(std::size_t{1} << c, std::align_val_t{kBufferAlignment}));
  }
  return static_cast<std::byte*>(::operator new(size, std::align_val_t{kBufferAlignment}));
}

void release_buffer(std::byte* block, std::size_t size) {
  const int c = size <= 1 ? kSmallestClass : class_of(size);
  if (kRecycle && c <= kLargestClass) {
    auto& list = free_buffers.classes[static_cast<std::size_t>(c)];
    if ((list.size() + 1) << c <= kKeptBytesPerClass) {
      list.push_back(block);
      return;
    }
  }
  ::operator delete(block, std::align_val_t{kBufferAlignment});
}

}  // namespace

Buffer::Buffer(std::size_t size) : size_(size) {
  if (size > 0) data_ = allocate_buffer(size);
}

Buffer Buffer::zeroed(std::size_t size) {
  Buffer buffer(size);
  if (size > 0) std::memset(buffer.data_, 0, size);
  return buffer;
}

Buffer::~Buffer() {
  if (data_ != nullptr) release_buffer(data_, size_);
}

}  // namespace blockbed
