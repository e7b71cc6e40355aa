// The NBD protocol on the wire: numbers, fixed-size structures, and their encoding. No I/O, no
// state.
//
// Contract: everything is big-endian. encode_* writes exactly the structure's size; decode_* reads
// exactly that much and judges nothing, magic included: what a value means and whether it is
// allowed is for negotiation and session to say. Source: the protocol document of the NBD project
// (doc/proto.md); bounds and texts are those of QEMU 7.2's server. Units: bytes. Threading: pure
// functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace blockbed::nbd {

// --- magic numbers
inline constexpr uint64_t kGreetingMagic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kChunkMagic = 0x668e33ef;

// --- bounds
// Longest string of the protocol: names, descriptions, texts of errors.
inline constexpr uint32_t kMaxString = 4096;
// Longest payload of a read or write, and longest option: what every known client stays below.
inline constexpr uint32_t kMaxPayload = uint32_t{32} << 20;
// What one block status reply may describe: 1 MiB of descriptors, QEMU's bound.
inline constexpr std::size_t kMaxStatusExtents = (std::size_t{1} << 20) / 8;

// --- handshake
enum GreetingFlags : uint16_t { kFixedNewstyle = 1, kNoZeroes = 2 };

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
};

inline constexpr uint32_t kOptionErrorBit = uint32_t{1} << 31;
enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrUnsupported = kOptionErrorBit | 1,
  kErrPolicy = kOptionErrorBit | 2,
  kErrInvalid = kOptionErrorBit | 3,
  kErrPlatform = kOptionErrorBit | 4,
  kErrTlsRequired = kOptionErrorBit | 5,
  kErrUnknown = kOptionErrorBit | 6,
  kErrShutdown = kOptionErrorBit | 7,
  kErrBlockSizeRequired = kOptionErrorBit | 8,
  kErrTooBig = kOptionErrorBit | 9,
};

enum class Info : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

enum TransmissionFlags : uint16_t {
  kHasFlags = 1u << 0,
  kReadOnly = 1u << 1,
  kSendFlush = 1u << 2,
  kSendFua = 1u << 3,
  kSendTrim = 1u << 5,
  kSendWriteZeroes = 1u << 6,
  kSendDf = 1u << 7,
  kCanMultiConn = 1u << 8,
  kSendCache = 1u << 10,
  kSendFastZero = 1u << 11,
};

// --- transmission
enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

enum CommandFlags : uint16_t {
  kFlagFua = 1u << 0,
  kFlagNoHole = 1u << 1,
  kFlagDf = 1u << 2,
  kFlagReqOne = 1u << 3,
  kFlagFastZero = 1u << 4,
};

enum ChunkFlags : uint16_t { kChunkDone = 1 };

enum class ChunkType : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kError = (1u << 15) | 1,
  kErrorOffset = (1u << 15) | 2,
};

// Extents of `base:allocation`.
enum AllocationState : uint32_t { kStateHole = 1, kStateZero = 2 };
// Of the contexts of dirty bitmaps.
enum BitmapState : uint32_t { kStateDirty = 1 };

inline constexpr std::string_view kBaseAllocation = "base:allocation";
inline constexpr std::string_view kAllocationDepth = "qemu:allocation-depth";
inline constexpr std::string_view kDirtyBitmapPrefix = "qemu:dirty-bitmap:";

// --- sizes
inline constexpr std::size_t kGreetingSize = 18;
inline constexpr std::size_t kClientFlagsSize = 4;
inline constexpr std::size_t kOptionHeaderSize = 16;
inline constexpr std::size_t kOptionReplyHeaderSize = 20;
inline constexpr std::size_t kExportNameZeroes = 124;
inline constexpr std::size_t kRequestSize = 28;
inline constexpr std::size_t kSimpleReplySize = 16;
inline constexpr std::size_t kChunkHeaderSize = 20;
inline constexpr std::size_t kOffsetDataSize = kChunkHeaderSize + 8;
inline constexpr std::size_t kOffsetHoleSize = kChunkHeaderSize + 12;

// --- integers
template <class T>
constexpr void put(std::byte* out, T value) {
  for (std::size_t i = sizeof(T); i > 0; --i) {
    out[i - 1] = static_cast<std::byte>(value & 0xff);
    if constexpr (sizeof(T) > 1) value = static_cast<T>(value >> 8);
  }
}

template <class T>
constexpr T get(const std::byte* in) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>((static_cast<uint64_t>(value) << 8) | std::to_integer<uint8_t>(in[i]));
  }
  return value;
}

// --- structures
struct OptionHeader {
  uint64_t magic = kOptionMagic;
  uint32_t option = 0;
  uint32_t length = 0;
  friend bool operator==(const OptionHeader&, const OptionHeader&) = default;
};

constexpr void encode(std::byte* out, const OptionHeader& header) {
  put(out, header.magic);
  put(out + 8, header.option);
  put(out + 12, header.length);
}
constexpr OptionHeader decode_option(const std::byte* in) {
  return {get<uint64_t>(in), get<uint32_t>(in + 8), get<uint32_t>(in + 12)};
}

struct OptionReplyHeader {
  uint64_t magic = kOptionReplyMagic;
  uint32_t option = 0;
  uint32_t type = 0;
  uint32_t length = 0;
  friend bool operator==(const OptionReplyHeader&, const OptionReplyHeader&) = default;
};

constexpr void encode(std::byte* out, const OptionReplyHeader& header) {
  put(out, header.magic);
  put(out + 8, header.option);
  put(out + 12, header.type);
  put(out + 16, header.length);
}
constexpr OptionReplyHeader decode_option_reply(const std::byte* in) {
  return {get<uint64_t>(in), get<uint32_t>(in + 8), get<uint32_t>(in + 12), get<uint32_t>(in + 16)};
}

struct Request {
  uint32_t magic = kRequestMagic;
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t handle = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  friend bool operator==(const Request&, const Request&) = default;
};

constexpr void encode(std::byte* out, const Request& request) {
  put(out, request.magic);
  put(out + 4, request.flags);
  put(out + 6, request.type);
  put(out + 8, request.handle);
  put(out + 16, request.offset);
  put(out + 24, request.length);
}
constexpr Request decode_request(const std::byte* in) {
  return {get<uint32_t>(in),     get<uint16_t>(in + 4),  get<uint16_t>(in + 6),
          get<uint64_t>(in + 8), get<uint64_t>(in + 16), get<uint32_t>(in + 24)};
}

struct SimpleReply {
  uint32_t magic = kSimpleReplyMagic;
  uint32_t error = 0;
  uint64_t handle = 0;
  friend bool operator==(const SimpleReply&, const SimpleReply&) = default;
};

constexpr void encode(std::byte* out, const SimpleReply& reply) {
  put(out, reply.magic);
  put(out + 4, reply.error);
  put(out + 8, reply.handle);
}
constexpr SimpleReply decode_simple_reply(const std::byte* in) {
  return {get<uint32_t>(in), get<uint32_t>(in + 4), get<uint64_t>(in + 8)};
}

struct ChunkHeader {
  uint32_t magic = kChunkMagic;
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t handle = 0;
  uint32_t length = 0;
  friend bool operator==(const ChunkHeader&, const ChunkHeader&) = default;
};

constexpr void encode(std::byte* out, const ChunkHeader& chunk) {
  put(out, chunk.magic);
  put(out + 4, chunk.flags);
  put(out + 6, chunk.type);
  put(out + 8, chunk.handle);
  put(out + 16, chunk.length);
}
constexpr ChunkHeader decode_chunk(const std::byte* in) {
  return {get<uint32_t>(in), get<uint16_t>(in + 4), get<uint16_t>(in + 6), get<uint64_t>(in + 8),
          get<uint32_t>(in + 16)};
}

// The head of a chunk that carries data: kOffsetDataSize bytes, the data follows.
constexpr void encode_offset_data(std::byte* out, uint64_t handle, bool done, uint64_t offset,
                                  uint32_t data_length) {
  encode(out, ChunkHeader{kChunkMagic, static_cast<uint16_t>(done ? kChunkDone : 0),
                          static_cast<uint16_t>(ChunkType::kOffsetData), handle, data_length + 8});
  put(out + kChunkHeaderSize, offset);
}

// A whole chunk: kOffsetHoleSize bytes.
constexpr void encode_offset_hole(std::byte* out, uint64_t handle, bool done, uint64_t offset,
                                  uint32_t hole_length) {
  encode(out, ChunkHeader{kChunkMagic, static_cast<uint16_t>(done ? kChunkDone : 0),
                          static_cast<uint16_t>(ChunkType::kOffsetHole), handle, 12});
  put(out + kChunkHeaderSize, offset);
  put(out + kChunkHeaderSize + 8, hole_length);
}

// The greeting of a server: fixed newstyle, zeroes may be left out.
std::array<std::byte, kGreetingSize> encode_greeting();

// An errno as NBD has it: the few that the protocol knows; all others are EINVAL.
uint32_t wire_error(int errno_value);

// In the words of QEMU's messages: "list", "set meta context", "<unknown>".
std::string_view option_name(uint32_t option);
// "read", "write zeroes", "<unknown>".
std::string_view command_name(uint16_t command);

}  // namespace blockbed::nbd
