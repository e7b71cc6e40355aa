// RequestSlot: one request in flight and its reply; ReplyQueue: the replies that wait to be sent.
//
// Problem: a request must cost no allocation once a connection is warm, and a reply must go out
// without copying what was read. So slots are reused, and a slot's buffer keeps room before the
// payload for the reply's head: both leave as one range of memory.
//
// Contract
//  - One answer_* call a request; the ranges of reply() are valid until the slot is reset.
//  - payload() is aligned for direct I/O.
// Source of the forms: with structured replies only reads, block status and errors are structured;
// everything else that succeeds gets a simple reply, as QEMU does it. Threading: engine thread
// only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "block/exports/nbd/wire.h"
#include "block/runtime/buffers.h"
#include "block/runtime/sync.h"

namespace blockbed::nbd {

// One descriptor of a block status reply.
struct Extent {
  uint32_t length = 0;
  uint32_t flags = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};

class RequestSlot {
 public:
  // Memory for payloads and for heads up to this size stays with the slot for the next request.
  static constexpr std::size_t kKept = std::size_t{64} << 10;

  const Request& request() const { return request_; }
  Command command() const { return static_cast<Command>(request_.type); }
  bool has_flag(CommandFlags flag) const { return (request_.flags & flag) != 0; }

  void begin(const Request& request, bool structured);
  // The reply was sent: gives back what is too much to keep.
  void end();
  // Memory for request().length bytes.
  void reserve_payload();
  std::span<std::byte> payload() { return {buffer_.data() + kHeadroom, request_.length}; }

  void answer_success();
  void answer_error(int errno_value, std::string_view text);
  // The whole payload, as one piece of data; as a hole when it is all zero and the client can take
  // that.
  void answer_read();

  // A read in pieces: holes and runs of the payload in ascending order, then finish_pieces().
  void add_hole(uint32_t offset_in_request, uint32_t length);
  void add_data(uint32_t offset_in_request, uint32_t length);
  void finish_pieces();

  // Block status: one call a context, then finish_status().
  void add_status(uint32_t context, std::span<const Extent> extents);
  void finish_status();

  const IoVector& reply() const { return reply_; }

 private:
  friend class ReplyQueue;

  // Keeps the payload aligned; the head of a reply is at the end of it.
  static constexpr std::size_t kHeadroom = kBufferAlignment;

  struct Piece {
    std::size_t head_offset;
    std::size_t head_length;
    uint32_t data_offset;
    uint32_t data_length;
  };

  std::byte* add_head(std::size_t length);
  void send_head(std::size_t length) { reply_ = IoVector(head_.data(), length); }

  Request request_;
  bool structured_ = false;
  Buffer buffer_;
  std::array<std::byte, kOffsetHoleSize> head_;
  // Heads of several chunks, texts, extents: whatever does not fit head_.
  std::vector<std::byte> heads_;
  std::vector<Piece> pieces_;
  IoVector reply_;
  RequestSlot* next_ = nullptr;
};

// In the order in which they became ready.
class ReplyQueue {
 public:
  explicit ReplyQueue(Executor& executor) : changed_(executor) {}

  bool empty() const { return first_ == nullptr; }
  void push(RequestSlot& slot) {
    slot.next_ = nullptr;
    (first_ == nullptr ? first_ : last_->next_) = &slot;
    last_ = &slot;
    changed_.wake_one();
  }
  // The whole queue; walk it with next_of().
  RequestSlot* take_all() { return std::exchange(first_, nullptr); }
  static RequestSlot* next_of(const RequestSlot& slot) { return slot.next_; }

  // Nothing is pushed any more.
  void close() {
    closed_ = true;
    changed_.wake_all();
  }
  bool closed() const { return closed_; }
  // Until pushed to or closed; spurious wakes happen.
  auto wait() { return changed_.wait(); }

 private:
  WaitQueue changed_;
  RequestSlot* first_ = nullptr;
  RequestSlot* last_ = nullptr;
  bool closed_ = false;
};

}  // namespace blockbed::nbd
