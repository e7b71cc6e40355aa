#include "tests/exports/nbd_client_fixture.h"

#include <algorithm>
#include <cstring>

namespace blockbed::nbd::test {

Bytes bytes_of(std::string_view text) {
  Bytes out(text.size());
  if (!text.empty()) std::memcpy(out.data(), text.data(), text.size());
  return out;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes info_data(std::string_view name, std::vector<Info> wanted) {
  Bytes data = big_endian(static_cast<uint32_t>(name.size())) + bytes_of(name) +
               big_endian(static_cast<uint16_t>(wanted.size()));
  for (const Info info : wanted) data = data + big_endian(static_cast<uint16_t>(info));
  return data;
}

Bytes meta_data(std::string_view name, const std::vector<std::string>& queries) {
  Bytes data = big_endian(static_cast<uint32_t>(name.size())) + bytes_of(name) +
               big_endian(static_cast<uint32_t>(queries.size()));
  for (const std::string& query : queries) {
    data = data + big_endian(static_cast<uint32_t>(query.size())) + bytes_of(query);
  }
  return data;
}

Bytes option_bytes(Option option, const Bytes& data) {
  Bytes out(kOptionHeaderSize);
  encode(out.data(), OptionHeader{kOptionMagic, static_cast<uint32_t>(option),
                                  static_cast<uint32_t>(data.size())});
  return out + data;
}

Bytes request_bytes(const Request& request, const Bytes& payload) {
  Bytes out(kRequestSize);
  encode(out.data(), request);
  return out + payload;
}

std::string OptionAnswer::text() const {
  return std::string(reinterpret_cast<const char*>(data.data()), data.size());
}

std::vector<OptionAnswer> split_answers(std::span<const std::byte> bytes) {
  std::vector<OptionAnswer> answers;
  while (bytes.size() >= kOptionReplyHeaderSize) {
    const OptionReplyHeader header = decode_option_reply(bytes.data());
    if (header.magic != kOptionReplyMagic || bytes.size() - kOptionReplyHeaderSize < header.length)
      break;
    bytes = bytes.subspan(kOptionReplyHeaderSize);
    answers.push_back({header, Bytes(bytes.begin(), bytes.begin() + header.length)});
    bytes = bytes.subspan(header.length);
  }
  return answers;
}

Task<bool> Client::send(Bytes bytes) {
  const Result<void> sent = co_await stream_->write_all(IoVector(bytes.data(), bytes.size()));
  co_return sent.has_value();
}

Task<std::optional<Bytes>> Client::receive(std::size_t length) {
  Bytes bytes(length);
  std::size_t done = 0;
  while (done < length) {
    const Result<std::size_t> count = co_await stream_->read_some(std::span(bytes).subspan(done));
    if (!count || *count == 0) co_return std::nullopt;
    done += *count;
  }
  co_return bytes;
}

Task<bool> Client::at_end() {
  std::byte one;
  const Result<std::size_t> count = co_await stream_->read_some(std::span(&one, 1));
  co_return !count || *count == 0;
}

Task<bool> Client::hello(uint32_t flags) {
  const auto greeting = co_await receive(kGreetingSize);
  if (!greeting) co_return false;
  co_return co_await send(big_endian(flags));
}

Task<std::vector<OptionAnswer>> Client::option(Option option, Bytes data) {
  std::vector<OptionAnswer> answers;
  if (!co_await send(option_bytes(option, data))) co_return answers;
  for (;;) {
    const auto header = co_await receive(kOptionReplyHeaderSize);
    if (!header) co_return answers;
    OptionAnswer answer;
    answer.header = decode_option_reply(header->data());
    if (answer.header.length > 0) {
      auto body = co_await receive(answer.header.length);
      if (!body) co_return answers;
      answer.data = *std::move(body);
    }
    answers.push_back(std::move(answer));
    const uint32_t type = answers.back().header.type;
    if (type == static_cast<uint32_t>(OptionReply::kAck) || (type & kOptionErrorBit) != 0)
      co_return answers;
  }
}

Task<bool> Client::go(std::string name, bool structured, std::vector<std::string> contexts) {
  if (!co_await hello()) co_return false;
  structured_ = structured;
  if (structured) {
    const auto answers = co_await option(Option::kStructuredReply);
    if (answers.empty() || answers.back().type() != OptionReply::kAck) co_return false;
  }
  if (!contexts.empty()) {
    const auto answers = co_await option(Option::kSetMetaContext, meta_data(name, contexts));
    if (answers.empty() || answers.back().type() != OptionReply::kAck) co_return false;
  }
  const auto answers = co_await option(Option::kGo, info_data(name));
  if (answers.empty() || answers.back().type() != OptionReply::kAck) co_return false;
  for (const OptionAnswer& answer : answers) {
    if (answer.type() != OptionReply::kInfo || get<uint16_t>(answer.data.data()) != 0) continue;
    size_ = get<uint64_t>(answer.data.data() + 2);
    flags_ = get<uint16_t>(answer.data.data() + 10);
  }
  co_return true;
}

Task<bool> Client::request(Command command, uint64_t offset, uint32_t length, uint16_t flags,
                           uint64_t handle, Bytes payload) {
  const Request header{kRequestMagic, flags,  static_cast<uint16_t>(command),
                       handle,        offset, length};
  co_return co_await send(request_bytes(header, payload));
}

Task<std::optional<Reply>> Client::reply(uint32_t read_length) {
  auto head = co_await receive(4);
  if (!head) co_return std::nullopt;
  Reply reply;
  if (get<uint32_t>(head->data()) == kSimpleReplyMagic) {
    const auto rest = co_await receive(kSimpleReplySize - 4);
    if (!rest) co_return std::nullopt;
    reply.error = get<uint32_t>(rest->data());
    reply.handle = get<uint64_t>(rest->data() + 4);
    if (reply.error == 0 && read_length > 0) {
      auto data = co_await receive(read_length);
      if (!data) co_return std::nullopt;
      reply.data = *std::move(data);
    }
    co_return reply;
  }
  if (get<uint32_t>(head->data()) != kChunkMagic) co_return std::nullopt;
  const auto rest = co_await receive(kChunkHeaderSize - 4);
  if (!rest) co_return std::nullopt;
  reply.structured = true;
  reply.done = (get<uint16_t>(rest->data()) & kChunkDone) != 0;
  reply.type = static_cast<ChunkType>(get<uint16_t>(rest->data() + 2));
  reply.handle = get<uint64_t>(rest->data() + 4);
  const auto length = get<uint32_t>(rest->data() + 12);
  Bytes body;
  if (length > 0) {
    auto received = co_await receive(length);
    if (!received) co_return std::nullopt;
    body = *std::move(received);
  }
  switch (reply.type) {
    case ChunkType::kOffsetData:
      reply.offset = get<uint64_t>(body.data());
      reply.data.assign(body.begin() + 8, body.end());
      break;
    case ChunkType::kOffsetHole:
      reply.offset = get<uint64_t>(body.data());
      reply.hole_length = get<uint32_t>(body.data() + 8);
      break;
    case ChunkType::kBlockStatus:
      reply.context = get<uint32_t>(body.data());
      for (std::size_t at = 4; at + 8 <= body.size(); at += 8) {
        reply.extents.emplace_back(get<uint32_t>(body.data() + at),
                                   get<uint32_t>(body.data() + at + 4));
      }
      break;
    case ChunkType::kError:
    case ChunkType::kErrorOffset:
      reply.error = get<uint32_t>(body.data());
      reply.text.assign(reinterpret_cast<const char*>(body.data()) + 6,
                        get<uint16_t>(body.data() + 4));
      break;
    case ChunkType::kNone:
      break;
  }
  co_return reply;
}

Task<int> Client::write(uint64_t offset, Bytes payload, uint16_t flags) {
  const auto length = static_cast<uint32_t>(payload.size());
  if (!co_await request(Command::kWrite, offset, length, flags, next_handle_++, std::move(payload)))
    co_return -1;
  const auto answer = co_await reply();
  co_return answer ? static_cast<int>(answer->error) : -1;
}

Task<int> Client::simple(Command command, uint64_t offset, uint32_t length, uint16_t flags) {
  if (!co_await request(command, offset, length, flags, next_handle_++)) co_return -1;
  const auto answer = co_await reply();
  co_return answer ? static_cast<int>(answer->error) : -1;
}

Task<std::optional<Bytes>> Client::read(uint64_t offset, uint32_t length, uint16_t flags) {
  if (!co_await request(Command::kRead, offset, length, flags, next_handle_++))
    co_return std::nullopt;
  Bytes bytes(length, std::byte{0xcc});
  for (;;) {
    const auto answer = co_await reply(structured_ ? 0 : length);
    if (!answer || answer->error != 0) co_return std::nullopt;
    if (!answer->structured) co_return answer->data;
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(answer->offset - offset);
    std::copy(answer->data.begin(), answer->data.end(), at);
    std::fill_n(at, answer->hole_length, std::byte{0});
    if (answer->done) co_return bytes;
  }
}

}  // namespace blockbed::nbd::test
