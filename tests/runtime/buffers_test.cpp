#include "block/runtime/buffers.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace blockbed {
namespace {

TEST(IoVector, CollectsRanges) {
  char a[10], b[20], c[30];
  IoVector v(a, sizeof a);
  EXPECT_EQ(v.ranges().size(), 1U);
  v.append(b, sizeof b);
  v.append(nullptr, 0);
  EXPECT_EQ(v.ranges().size(), 2U);
  v.append(c, sizeof c);
  EXPECT_EQ(v.ranges().size(), 3U);
  EXPECT_EQ(v.size(), 60U);
  EXPECT_EQ(v.ranges()[0].iov_base, a);
  EXPECT_EQ(v.ranges()[2].iov_len, 30U);
}

TEST(IoVector, SlicesInEveryWay) {
  std::string text = "0123456789abcdef";
  for (std::size_t cuts = 1; cuts <= 5; ++cuts) {
    IoVector v;
    for (std::size_t i = 0; i < cuts; ++i) {
      const std::size_t begin = text.size() * i / cuts;
      v.append(text.data() + begin, text.size() * (i + 1) / cuts - begin);
    }
    for (std::size_t at = 0; at <= text.size(); ++at) {
      for (std::size_t n = 0; at + n <= text.size(); ++n) {
        const IoVector part = v.slice(at, n);
        ASSERT_EQ(part.size(), n);
        std::string got(n, '?');
        part.copy_to(got.data());
        ASSERT_EQ(got, text.substr(at, n));
      }
    }
  }
}

TEST(IoVector, CopiesAndFills) {
  char a[3], b[5], c[4];
  IoVector v(a, 3);
  v.append(b, 5);
  v.append(c, 4);
  v.copy_from("hello, world");
  EXPECT_EQ(std::string(b, 5), "lo, w");
  EXPECT_FALSE(v.all_zero());
  v.fill(0);
  EXPECT_TRUE(v.all_zero());
  c[3] = 1;
  EXPECT_FALSE(v.all_zero());
}

TEST(IoVector, KnowsItsAlignment) {
  const Buffer buffer(8192);
  EXPECT_TRUE(buffer.io().aligned_to(4096));
  EXPECT_TRUE(buffer.io(512, 1024).aligned_to(512));
  EXPECT_FALSE(buffer.io(512, 1024).aligned_to(1024));
  EXPECT_FALSE(buffer.io(0, 100).aligned_to(512));
}

TEST(AllZero, SeesASingleByteAnywhere) {
  for (const std::size_t length : {1U, 7U, 15U, 16U, 17U, 31U, 32U, 33U, 100U, 4096U}) {
    std::string bytes(length, '\0');
    EXPECT_TRUE(all_zero(bytes.data(), length));
    for (std::size_t i = 0; i < length; i += length > 100 ? 37 : 1) {
      bytes[i] = 1;
      EXPECT_FALSE(all_zero(bytes.data(), length)) << length << " " << i;
      bytes[i] = 0;
    }
  }
  EXPECT_TRUE(all_zero(nullptr, 0));
}

TEST(Buffer, IsAlignedAndMoves) {
  for (const std::size_t size : {1U, 511U, 4096U, 4097U, 65536U, 5U << 20}) {
    Buffer buffer = Buffer::zeroed(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kBufferAlignment, 0U);
    EXPECT_TRUE(all_zero(buffer.data(), size));
    std::byte* const data = buffer.data();
    const Buffer moved = std::move(buffer);
    EXPECT_EQ(moved.data(), data);
    EXPECT_EQ(moved.size(), size);
  }
  EXPECT_TRUE(Buffer().empty());
  EXPECT_TRUE(Buffer(0).empty());
}

TEST(Buffer, ManyOfManySizesAreRecycledApart) {
  std::vector<Buffer> all;
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 1; i < 300; ++i) {
      all.emplace_back(i * 37);
      std::memset(all.back().data(), static_cast<int>(i), all.back().size());
    }
    for (std::size_t i = 1; i < 300; ++i) {
      const Buffer& b = all[i - 1];
      ASSERT_EQ(static_cast<unsigned char>(b.data()[b.size() - 1]), i & 0xFF);
    }
    all.clear();
  }
}

}  // namespace
}  // namespace blockbed
