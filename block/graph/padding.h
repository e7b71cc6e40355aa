// Padding: a request widened to the alignment of its node. What it touches in part is read first
// (Node::read_around), and written back with it.
#pragma once

#include <cstdint>

#include "block/runtime/buffers.h"

namespace blockbed {

// What lies around a request of at least one byte in the blocks that it touches in part, and memory
// for those blocks: the head block, then the tail block, or the one that is both.
struct Padding {
  uint64_t unit;
  // Bytes before and after the request; one of them at least is not 0.
  uint64_t head;
  uint64_t tail;
  // Of the widened request.
  uint64_t offset;
  uint64_t length;
  Buffer memory;

  Padding(uint64_t request_offset, uint64_t request_length, uint64_t alignment)
      : unit(alignment),
        head(request_offset % unit),
        tail((unit - (request_offset + request_length) % unit) % unit),
        offset(request_offset - head),
        length(head + request_length + tail),
        memory(head != 0 && tail != 0 && length > unit ? 2 * unit : unit) {}

  // `memory` is the whole widened request: there is no block between head and tail.
  bool all_in_memory() const { return length == memory.size(); }
  uint64_t tail_offset() const { return offset + length - unit; }
  std::byte* tail_block() { return memory.data() + memory.size() - unit; }

  // The caller's buffers with what lies around them.
  IoVector widen(const IoVector& buffers) {
    IoVector result;
    if (head != 0) result.append(memory.data(), head);
    for (const iovec& range : buffers.ranges()) result.append(range.iov_base, range.iov_len);
    if (tail != 0) result.append(tail_block() + (unit - tail), tail);
    return result;
  }
};

}  // namespace blockbed
