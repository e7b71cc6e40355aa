// SpareBuffers: memory that one copy leaves to the next.
//
// Problem: a chunk of memory that is allocated for each copy costs a page fault for every page of
// it, which is a third of what copying it costs.
//
// Contract: buffers of exactly `chunk` bytes are kept, `most` at a time, until clear(); all others
// come and go. Units: bytes. Threading: one thread.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "block/runtime/buffers.h"

namespace blockbed {

class SpareBuffers {
 public:
  SpareBuffers(std::size_t chunk, std::size_t most) : chunk_(chunk), most_(most) {}

  // At least `size` bytes.
  Buffer take(std::size_t size) {
    if (size > chunk_) return Buffer(size);
    if (spare_.empty()) return Buffer(size > chunk_ / 2 ? chunk_ : size);
    Buffer buffer = std::move(spare_.back());
    spare_.pop_back();
    return buffer;
  }
  void give_back(Buffer buffer) {
    if (buffer.size() == chunk_ && spare_.size() < most_) spare_.push_back(std::move(buffer));
  }
  void clear() { spare_.clear(); }

 private:
  const std::size_t chunk_;
  const std::size_t most_;
  std::vector<Buffer> spare_;
};

}  // namespace blockbed
