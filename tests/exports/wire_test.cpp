// The NBD codec against bytes written out by hand from the protocol document, and round trips.
#include "block/exports/nbd/wire.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <vector>

#include "block/exports/nbd/request_slot.h"

namespace blockbed::nbd {
namespace {

std::vector<std::byte> hex(std::string_view text) {
  std::vector<std::byte> out;
  int high = -1;
  for (const char c : text) {
    if (c == ' ') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<std::byte>(high * 16 + digit));
      high = -1;
    }
  }
  return out;
}

template <class T>
std::vector<std::byte> encoded(const T& value, std::size_t size) {
  std::vector<std::byte> out(size);
  encode(out.data(), value);
  return out;
}

std::vector<std::byte> flat(const IoVector& ranges) {
  std::vector<std::byte> out(ranges.size());
  ranges.copy_to(out.data());
  return out;
}

TEST(NbdWire, Greeting) {
  const auto greeting = encode_greeting();
  EXPECT_EQ(std::vector(greeting.begin(), greeting.end()),
            hex("4e42444d41474943 49484156454f5054 0003"));
}

TEST(NbdWire, OptionAndItsReply) {
  EXPECT_EQ(encoded(OptionHeader{kOptionMagic, 7, 0x102}, kOptionHeaderSize),
            hex("49484156454f5054 00000007 00000102"));
  EXPECT_EQ(encoded(OptionReplyHeader{kOptionReplyMagic, 6,
                                      static_cast<uint32_t>(OptionReply::kErrUnknown), 5},
                    kOptionReplyHeaderSize),
            hex("0003e889045565a9 00000006 80000006 00000005"));
}

TEST(NbdWire, RequestAndReplies) {
  const Request request{kRequestMagic, kFlagFua, 1, 0x1122334455667788, 0x10000, 0x1000};
  EXPECT_EQ(encoded(request, kRequestSize),
            hex("25609513 0001 0001 1122334455667788 0000000000010000 00001000"));
  EXPECT_EQ(encoded(SimpleReply{kSimpleReplyMagic, 22, 0x1122334455667788}, kSimpleReplySize),
            hex("67446698 00000016 1122334455667788"));
  EXPECT_EQ(encoded(ChunkHeader{kChunkMagic, kChunkDone, 0x8001, 2, 6}, kChunkHeaderSize),
            hex("668e33ef 0001 8001 0000000000000002 00000006"));
}

TEST(NbdWire, ChunksWithOffsets) {
  std::vector<std::byte> out(kOffsetDataSize);
  encode_offset_data(out.data(), 9, false, 0x200, 512);
  EXPECT_EQ(out, hex("668e33ef 0000 0001 0000000000000009 00000208 0000000000000200"));
  out.resize(kOffsetHoleSize);
  encode_offset_hole(out.data(), 9, true, 0x200, 512);
  EXPECT_EQ(out, hex("668e33ef 0001 0002 0000000000000009 0000000c 0000000000000200 00000200"));
}

TEST(NbdWire, EverythingComesBackAsItWent) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const auto r64 = [&] { return random(); };
    const auto r32 = [&] { return static_cast<uint32_t>(random()); };
    const auto r16 = [&] { return static_cast<uint16_t>(random()); };
    const Request request{r32(), r16(), r16(), r64(), r64(), r32()};
    EXPECT_EQ(decode_request(encoded(request, kRequestSize).data()), request);
    const OptionHeader option{r64(), r32(), r32()};
    EXPECT_EQ(decode_option(encoded(option, kOptionHeaderSize).data()), option);
    const OptionReplyHeader answer{r64(), r32(), r32(), r32()};
    EXPECT_EQ(decode_option_reply(encoded(answer, kOptionReplyHeaderSize).data()), answer);
    const SimpleReply simple{r32(), r32(), r64()};
    EXPECT_EQ(decode_simple_reply(encoded(simple, kSimpleReplySize).data()), simple);
    const ChunkHeader chunk{r32(), r16(), r16(), r64(), r32()};
    EXPECT_EQ(decode_chunk(encoded(chunk, kChunkHeaderSize).data()), chunk);
  }
}

TEST(NbdWire, LayoutIsKnownToTheCompiler) {
  constexpr Request request = [] {
    std::array<std::byte, kRequestSize> bytes = {};
    encode(bytes.data(), Request{kRequestMagic, 1, 2, 3, 4, 5});
    return decode_request(bytes.data());
  }();
  static_assert(request == Request{kRequestMagic, 1, 2, 3, 4, 5});
}

TEST(NbdWire, ErrorsTheProtocolDoesNotKnowAreInvalid) {
  EXPECT_EQ(wire_error(0), 0u);
  EXPECT_EQ(wire_error(EROFS), 1u);
  EXPECT_EQ(wire_error(EIO), 5u);
  EXPECT_EQ(wire_error(EFBIG), 28u);
  EXPECT_EQ(wire_error(ENOTSUP), 95u);
  EXPECT_EQ(wire_error(ENOMEDIUM), 22u);
}

// --- replies of a slot

class RequestSlotTest : public testing::Test {
 public:
  void read(bool structured, uint16_t flags, uint32_t length, char fill) {
    slot.begin(Request{kRequestMagic, flags, 0, 7, 0x1000, length}, structured);
    slot.reserve_payload();
    std::memset(slot.payload().data(), fill, length);
  }
  RequestSlot slot;
};

TEST_F(RequestSlotTest, SimpleReadIsOneRange) {
  read(false, 0, 4, 'a');
  slot.answer_read();
  EXPECT_EQ(slot.reply().ranges().size(), 1u);
  EXPECT_EQ(flat(slot.reply()), hex("67446698 00000000 0000000000000007 61616161"));
}

TEST_F(RequestSlotTest, StructuredReadIsOneRange) {
  read(true, 0, 4, 'a');
  slot.answer_read();
  EXPECT_EQ(slot.reply().ranges().size(), 1u);
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0001 0001 0000000000000007 0000000c 0000000000001000 61616161"));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(slot.payload().data()) % kBufferAlignment, 0u);
}

TEST_F(RequestSlotTest, ZeroesAreAHoleUnlessTheClientWantsOnePiece) {
  read(true, 0, 4, 0);
  slot.answer_read();
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0001 0002 0000000000000007 0000000c 0000000000001000 00000004"));
  read(true, kFlagDf, 4, 0);
  slot.answer_read();
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0001 0001 0000000000000007 0000000c 0000000000001000 00000000"));
}

TEST_F(RequestSlotTest, PiecesEndWithDone) {
  read(true, 0, 8, 'b');
  slot.add_hole(0, 4);
  slot.add_data(4, 2);
  slot.add_hole(6, 2);
  slot.finish_pieces();
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0000 0002 0000000000000007 0000000c 0000000000001000 00000004"
                "668e33ef 0000 0001 0000000000000007 0000000a 0000000000001004 6262"
                "668e33ef 0001 0002 0000000000000007 0000000c 0000000000001006 00000002"));
}

TEST_F(RequestSlotTest, Errors) {
  slot.begin(Request{kRequestMagic, 0, 1, 7, 0, 1}, false);
  slot.answer_error(ENOSPC, "no room");
  EXPECT_EQ(flat(slot.reply()), hex("67446698 0000001c 0000000000000007"));
  slot.begin(Request{kRequestMagic, 0, 1, 7, 0, 1}, true);
  slot.answer_error(ENOSPC, "no room");
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0001 8001 0000000000000007 0000000d 0000001c 0007 6e6f20726f6f6d"));
  // One byte more than the protocol's longest string.
  slot.begin(Request{kRequestMagic, 0, 1, 7, 0, 1}, true);
  slot.answer_error(EIO, std::string(kMaxString + 1, 'x'));
  EXPECT_EQ(slot.reply().size(), kChunkHeaderSize + 6 + kMaxString);
}

TEST_F(RequestSlotTest, BlockStatusOfTwoContexts) {
  slot.begin(Request{kRequestMagic, 0, 7, 7, 0, 100}, true);
  const std::array<Extent, 2> base = {Extent{60, 0}, Extent{40, 3}};
  const std::array<Extent, 1> depth = {Extent{100, 1}};
  slot.add_status(0, base);
  slot.add_status(1, depth);
  slot.finish_status();
  EXPECT_EQ(flat(slot.reply()),
            hex("668e33ef 0000 0005 0000000000000007 00000014 00000000 0000003c 00000000 00000028 "
                "00000003"
                "668e33ef 0001 0005 0000000000000007 0000000c 00000001 00000064 00000001"));
}

TEST_F(RequestSlotTest, AFreshRequestForgetsTheLastOne) {
  read(true, 0, 8, 'b');
  slot.add_data(0, 8);
  slot.finish_pieces();
  slot.begin(Request{kRequestMagic, 0, 1, 8, 0, 0}, true);
  slot.answer_success();
  EXPECT_EQ(flat(slot.reply()), hex("67446698 00000000 0000000000000008"));
  slot.begin(Request{kRequestMagic, 0, 0, 9, 0, 0}, true);
  slot.answer_success();
  EXPECT_EQ(flat(slot.reply()), hex("668e33ef 0001 0000 0000000000000009 00000000"));
}

}  // namespace
}  // namespace blockbed::nbd
