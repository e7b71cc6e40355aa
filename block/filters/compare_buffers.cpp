#include "block/filters/compare_buffers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "block/runtime/assert.h"
#include "block/runtime/event_sink.h"

namespace blockbed {

namespace {

// Walks over the ranges of a list.
class Cursor {
 public:
  explicit Cursor(const IoVector& list) : ranges_(list.ranges()) {}

  bool done() const { return index_ == ranges_.size(); }
  const std::byte* data() const {
    return static_cast<const std::byte*>(ranges_[index_].iov_base) + used_;
  }
  std::size_t left() const { return ranges_[index_].iov_len - used_; }
  void advance(std::size_t length) {
    used_ += length;
    if (used_ < ranges_[index_].iov_len) return;
    ++index_;
    used_ = 0;
  }

 private:
  std::span<const iovec> ranges_;
  std::size_t index_ = 0;
  std::size_t used_ = 0;
};

}  // namespace

std::optional<uint64_t> first_difference(const IoVector& a, const IoVector& b) {
  BB_ASSERT(a.size() == b.size());
  uint64_t at = 0;
  for (Cursor left(a), right(b); !left.done();) {
    const std::size_t length = std::min(left.left(), right.left());
    if (std::memcmp(left.data(), right.data(), length) != 0) {
      const auto where = std::mismatch(left.data(), left.data() + length, right.data());
      return at + static_cast<uint64_t>(where.first - left.data());
    }
    left.advance(length);
    right.advance(length);
    at += length;
  }
  return std::nullopt;
}

void stop_on_mismatch(EventSink& events, const std::string& why) {
  events.tell(why);
  std::fflush(nullptr);
  std::_Exit(1);
}

}  // namespace blockbed
