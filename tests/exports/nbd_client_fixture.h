// A client of the NBD protocol for tests: packs what the test says, checks nothing for it.
//
// Contract: every call is a coroutine over the stream that it was given; a receive that meets the
// end of the connection returns no value. Numbers and layouts are those of
// block/exports/nbd/wire.h, which has its own tests against bytes written out by hand.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/exports/nbd/wire.h"
#include "block/runtime/stream.h"
#include "block/runtime/task.h"

namespace blockbed::nbd::test {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::string_view text);
Bytes operator+(Bytes a, const Bytes& b);
template <class T>
Bytes big_endian(T value) {
  Bytes out(sizeof(T));
  put(out.data(), value);
  return out;
}

// The data of options.
Bytes info_data(std::string_view name, std::vector<Info> wanted = {});
Bytes meta_data(std::string_view name, const std::vector<std::string>& queries);
Bytes option_bytes(Option option, const Bytes& data = {});
Bytes request_bytes(const Request& request, const Bytes& payload = {});

struct OptionAnswer {
  OptionReplyHeader header;
  Bytes data;

  OptionReply type() const { return static_cast<OptionReply>(header.type); }
  std::string text() const;
};
// Splits a run of option replies; stops at what is no whole reply.
std::vector<OptionAnswer> split_answers(std::span<const std::byte> bytes);

// One reply to a request, simple or a chunk.
struct Reply {
  bool structured = false;
  uint64_t handle = 0;
  bool done = true;
  // Simple replies and error chunks.
  uint32_t error = 0;
  std::string text;
  ChunkType type = ChunkType::kNone;
  // Data and holes.
  uint64_t offset = 0;
  uint32_t hole_length = 0;
  Bytes data;
  // Block status.
  uint32_t context = 0;
  std::vector<std::pair<uint32_t, uint32_t>> extents;
};

class Client {
 public:
  explicit Client(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  Stream& stream() { return *stream_; }
  void hang_up() { stream_->shutdown(); }

  Task<bool> send(Bytes bytes);
  Task<std::optional<Bytes>> receive(std::size_t length);
  // True when the server ends the connection instead of sending anything more.
  Task<bool> at_end();

  // Greeting and flags; false when the server was gone.
  Task<bool> hello(uint32_t flags = kFixedNewstyle | kNoZeroes);
  // Sends an option and takes all replies to it. Empty when the connection ended.
  Task<std::vector<OptionAnswer>> option(Option option, Bytes data = {});
  // Up to transmission. False when the server said no.
  Task<bool> go(std::string name, bool structured = true, std::vector<std::string> contexts = {});
  uint64_t size() const { return size_; }
  uint16_t flags() const { return flags_; }

  Task<bool> request(Command command, uint64_t offset, uint32_t length, uint16_t flags = 0,
                     uint64_t handle = 1, Bytes payload = {});
  // `read_length`: the payload of a simple reply to a read that succeeds.
  Task<std::optional<Reply>> reply(uint32_t read_length = 0);

  // Whole exchanges with nothing else in flight; the error number, 0 for success, -1 for a lost
  // connection.
  Task<int> write(uint64_t offset, Bytes payload, uint16_t flags = 0);
  Task<int> simple(Command command, uint64_t offset, uint32_t length, uint16_t flags = 0);
  // The bytes, holes filled in.
  Task<std::optional<Bytes>> read(uint64_t offset, uint32_t length, uint16_t flags = 0);

 private:
  std::unique_ptr<Stream> stream_;
  uint64_t size_ = 0;
  uint16_t flags_ = 0;
  bool structured_ = false;
  uint64_t next_handle_ = 100;
};

}  // namespace blockbed::nbd::test
