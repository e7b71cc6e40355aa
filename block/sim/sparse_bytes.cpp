#include "block/sim/sparse_bytes.h"

#include <algorithm>
#include <cstring>

#include "block/runtime/assert.h"

namespace blockbed::sim {

namespace {

// Calls back with the chunk's index, the offset in it, the offset in the range and the length.
template <class Call>
void for_each_chunk(uint64_t offset, uint64_t length, const Call& call) {
  uint64_t done = 0;
  while (done < length) {
    const uint64_t at = offset + done;
    const uint64_t inside = at % SparseBytes::kChunk;
    const uint64_t part = std::min(length - done, SparseBytes::kChunk - inside);
    call(at / SparseBytes::kChunk, inside, done, part);
    done += part;
  }
}

}  // namespace

SparseBytes::Chunk& SparseBytes::chunk_for_writing(uint64_t index) {
  std::shared_ptr<Chunk>& chunk = chunks_[index];
  if (!chunk) {
    chunk = std::make_shared<Chunk>();
    chunk->fill(std::byte{0});
  } else if (chunk.use_count() > 1) {
    chunk = std::make_shared<Chunk>(*chunk);
  }
  return *chunk;
}

uint64_t SparseBytes::space_for(uint64_t offset, uint64_t length) const {
  uint64_t space = 0;
  for_each_chunk(offset, length, [&](uint64_t index, uint64_t, uint64_t, uint64_t) {
    if (!chunks_.contains(index)) space += kChunk;
  });
  return space;
}

void SparseBytes::resize(uint64_t size) {
  if (size < size_) {
    zero(size, std::min(size_, (size / kChunk + 1) * kChunk) - size, Zeroes::kGiveSpaceBack);
    chunks_.erase(chunks_.lower_bound((size + kChunk - 1) / kChunk), chunks_.end());
  }
  size_ = size;
}

void SparseBytes::read(uint64_t offset, std::span<std::byte> into) const {
  for_each_chunk(offset, into.size(),
                 [&](uint64_t index, uint64_t inside, uint64_t done, uint64_t part) {
                   const auto chunk = chunks_.find(index);
                   if (chunk == chunks_.end()) {
                     std::memset(into.data() + done, 0, part);
                   } else {
                     std::memcpy(into.data() + done, chunk->second->data() + inside, part);
                   }
                 });
}

void SparseBytes::read(uint64_t offset, const IoVector& into) const {
  for (const iovec& range : into.ranges()) {
    read(offset, std::span(static_cast<std::byte*>(range.iov_base), range.iov_len));
    offset += range.iov_len;
  }
}

void SparseBytes::write(uint64_t offset, const IoVector& data) {
  for (const iovec& range : data.ranges()) {
    write(offset, std::span(static_cast<const std::byte*>(range.iov_base), range.iov_len));
    offset += range.iov_len;
  }
}

void SparseBytes::write(uint64_t offset, std::span<const std::byte> data) {
  BB_ASSERT(offset <= size_ && data.size() <= size_ - offset);
  for_each_chunk(offset, data.size(),
                 [&](uint64_t index, uint64_t inside, uint64_t done, uint64_t part) {
                   std::memcpy(chunk_for_writing(index).data() + inside, data.data() + done, part);
                 });
}

void SparseBytes::zero(uint64_t offset, uint64_t length, Zeroes how) {
  BB_ASSERT(offset <= size_ && length <= size_ - offset);
  if (length == 0) return;
  const uint64_t end = offset + length;
  // Only chunks that exist are visited: the range may be huge.
  auto chunk = chunks_.lower_bound(offset / kChunk);
  while (chunk != chunks_.end() && chunk->first * kChunk < end) {
    const uint64_t begin = chunk->first * kChunk;
    const bool whole = offset <= begin && end >= std::min(begin + kChunk, size_);
    if (whole && how == Zeroes::kGiveSpaceBack) {
      chunk = chunks_.erase(chunk);
      continue;
    }
    const uint64_t from = std::max(offset, begin);
    const uint64_t to = std::min(end, begin + kChunk);
    std::memset(chunk_for_writing(chunk->first).data() + (from - begin), 0, to - from);
    ++chunk;
  }
}

SparseBytes::Run SparseBytes::run_at(uint64_t offset, uint64_t length) const {
  BB_ASSERT(offset < size_ && length > 0);
  const uint64_t limit = std::min(size_ - offset, length);
  auto chunk = chunks_.lower_bound(offset / kChunk);
  if (chunk == chunks_.end()) return {limit, false};
  if (chunk->first != offset / kChunk) {
    return {std::min(limit, chunk->first * kChunk - offset), false};
  }
  uint64_t next = chunk->first;
  while (chunk != chunks_.end() && chunk->first == next && next * kChunk < offset + limit) {
    ++chunk;
    ++next;
  }
  return {std::min(limit, next * kChunk - offset), true};
}

std::vector<std::byte> SparseBytes::bytes() const {
  std::vector<std::byte> result(size_);
  read(0, result);
  return result;
}

bool operator==(const SparseBytes& a, const SparseBytes& b) {
  if (a.size_ != b.size_) return false;
  static constexpr SparseBytes::Chunk kZero = {};
  const auto content = [](const SparseBytes& s, uint64_t index) -> const SparseBytes::Chunk& {
    const auto found = s.chunks_.find(index);
    return found == s.chunks_.end() ? kZero : *found->second;
  };
  for (const SparseBytes* side : {&a, &b}) {
    for (const auto& [index, chunk] : side->chunks_) {
      const SparseBytes::Chunk& other = content(side == &a ? b : a, index);
      if (&other != chunk.get() && other != *chunk) return false;
    }
  }
  return true;
}

}  // namespace blockbed::sim
