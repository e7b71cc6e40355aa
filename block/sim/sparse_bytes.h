// SparseBytes: the bytes of a simulated file, with holes.
//
// Problem: a test takes thousands of copies of a disk, one for each way in which a crash can leave
// it; they differ in a few sectors.
//
// Contract: copying shares all chunks, writing copies the one it changes. Bytes that were never
// written are zero. resize() to less forgets what lies beyond. Ranges beyond size() may not be
// written; reading there gives zeroes. A chunk that became a hole as a whole takes no space.
// Units: bytes. Threading: plain data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "block/runtime/buffers.h"

namespace blockbed::sim {

class SparseBytes {
 public:
  static constexpr uint64_t kChunk = 4096;

  SparseBytes() = default;
  explicit SparseBytes(uint64_t size) : size_(size) {}

  uint64_t size() const { return size_; }
  uint64_t allocated() const { return chunks_.size() * kChunk; }
  // What writing there would add to allocated().
  uint64_t space_for(uint64_t offset, uint64_t length) const;
  void resize(uint64_t size);

  void read(uint64_t offset, std::span<std::byte> into) const;
  void read(uint64_t offset, const IoVector& into) const;
  void write(uint64_t offset, std::span<const std::byte> data);
  void write(uint64_t offset, const IoVector& data);
  enum class Zeroes { kKeepSpace, kGiveSpaceBack };
  void zero(uint64_t offset, uint64_t length, Zeroes how);

  struct Run {
    uint64_t length;
    bool data;
  };
  // The run at `offset`, inside the size, at most `length` long.
  Run run_at(uint64_t offset, uint64_t length) const;

  std::vector<std::byte> bytes() const;
  // Equal bytes; holes count as zeroes.
  friend bool operator==(const SparseBytes& a, const SparseBytes& b);

 private:
  using Chunk = std::array<std::byte, kChunk>;

  Chunk& chunk_for_writing(uint64_t index);

  uint64_t size_ = 0;
  std::map<uint64_t, std::shared_ptr<Chunk>> chunks_;
};

}  // namespace blockbed::sim
