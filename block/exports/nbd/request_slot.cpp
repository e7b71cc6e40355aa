#include "block/exports/nbd/request_slot.h"

#include <algorithm>

#include "block/runtime/assert.h"

namespace blockbed::nbd {

namespace {

// Longer reads are asked about holes before they are read (request_handler.cpp); looking at every
// byte is for short ones.
constexpr std::size_t kLookedThrough = std::size_t{64} << 10;

}  // namespace

void RequestSlot::begin(const Request& request, bool structured) {
  request_ = request;
  structured_ = structured;
  heads_.clear();
  pieces_.clear();
  reply_ = IoVector();
}

void RequestSlot::end() {
  if (buffer_.size() > kHeadroom + kKept) buffer_ = Buffer();
  if (heads_.capacity() > kKept) heads_ = {};
}

void RequestSlot::reserve_payload() {
  if (buffer_.size() < kHeadroom + request_.length) buffer_ = Buffer(kHeadroom + request_.length);
}

std::byte* RequestSlot::add_head(std::size_t length) {
  const std::size_t at = heads_.size();
  heads_.resize(at + length);
  return heads_.data() + at;
}

void RequestSlot::answer_success() {
  if (structured_ && command() == Command::kRead) {
    // A read of nothing.
    encode(head_.data(), ChunkHeader{kChunkMagic, kChunkDone,
                                     static_cast<uint16_t>(ChunkType::kNone), request_.handle, 0});
    return send_head(kChunkHeaderSize);
  }
  encode(head_.data(), SimpleReply{kSimpleReplyMagic, 0, request_.handle});
  send_head(kSimpleReplySize);
}

void RequestSlot::answer_error(int errno_value, std::string_view text) {
  BB_ASSERT(errno_value != 0);
  const uint32_t error = wire_error(errno_value);
  if (!structured_) {
    encode(head_.data(), SimpleReply{kSimpleReplyMagic, error, request_.handle});
    return send_head(kSimpleReplySize);
  }
  text = text.substr(0, kMaxString);
  heads_.clear();
  pieces_.clear();
  std::byte* out = add_head(kChunkHeaderSize + 6 + text.size());
  encode(out, ChunkHeader{kChunkMagic, kChunkDone, static_cast<uint16_t>(ChunkType::kError),
                          request_.handle, static_cast<uint32_t>(6 + text.size())});
  put(out + kChunkHeaderSize, error);
  put(out + kChunkHeaderSize + 4, static_cast<uint16_t>(text.size()));
  if (!text.empty()) std::memcpy(out + kChunkHeaderSize + 6, text.data(), text.size());
  reply_ = IoVector(heads_.data(), heads_.size());
}

void RequestSlot::answer_read() {
  std::byte* const data = buffer_.data() + kHeadroom;
  if (!structured_) {
    encode(data - kSimpleReplySize, SimpleReply{kSimpleReplyMagic, 0, request_.handle});
    reply_ = IoVector(data - kSimpleReplySize, kSimpleReplySize + request_.length);
    return;
  }
  if (!has_flag(kFlagDf) && request_.length <= kLookedThrough && all_zero(data, request_.length)) {
    encode_offset_hole(head_.data(), request_.handle, true, request_.offset, request_.length);
    return send_head(kOffsetHoleSize);
  }
  encode_offset_data(data - kOffsetDataSize, request_.handle, true, request_.offset,
                     request_.length);
  reply_ = IoVector(data - kOffsetDataSize, kOffsetDataSize + request_.length);
}

void RequestSlot::add_hole(uint32_t offset_in_request, uint32_t length) {
  pieces_.push_back({heads_.size(), kOffsetHoleSize, 0, 0});
  encode_offset_hole(add_head(kOffsetHoleSize), request_.handle, false,
                     request_.offset + offset_in_request, length);
}

void RequestSlot::add_data(uint32_t offset_in_request, uint32_t length) {
  pieces_.push_back({heads_.size(), kOffsetDataSize, offset_in_request, length});
  encode_offset_data(add_head(kOffsetDataSize), request_.handle, false,
                     request_.offset + offset_in_request, length);
}

void RequestSlot::finish_pieces() {
  BB_ASSERT(!pieces_.empty());
  put(heads_.data() + pieces_.back().head_offset + 4, static_cast<uint16_t>(kChunkDone));
  for (const Piece& piece : pieces_) {
    reply_.append(heads_.data() + piece.head_offset, piece.head_length);
    // A read of nothing but holes has no payload to point into.
    if (piece.data_length == 0) continue;
    reply_.append(buffer_.data() + kHeadroom + piece.data_offset, piece.data_length);
  }
}

void RequestSlot::add_status(uint32_t context, std::span<const Extent> extents) {
  BB_ASSERT(!extents.empty());
  const std::size_t length = 4 + extents.size() * 8;
  pieces_.push_back({heads_.size(), kChunkHeaderSize + length, 0, 0});
  std::byte* out = add_head(kChunkHeaderSize + length);
  encode(out, ChunkHeader{kChunkMagic, 0, static_cast<uint16_t>(ChunkType::kBlockStatus),
                          request_.handle, static_cast<uint32_t>(length)});
  put(out + kChunkHeaderSize, context);
  out += kChunkHeaderSize + 4;
  for (const Extent& extent : extents) {
    put(out, extent.length);
    put(out + 4, extent.flags);
    out += 8;
  }
}

void RequestSlot::finish_status() {
  BB_ASSERT(!pieces_.empty());
  put(heads_.data() + pieces_.back().head_offset + 4, static_cast<uint16_t>(kChunkDone));
  reply_ = IoVector(heads_.data(), heads_.size());
}

}  // namespace blockbed::nbd
