// Bitmap against a plain array of bits.
#include "block/graph/bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace blockbed {
namespace {

class Pair {
 public:
  explicit Pair(uint64_t size) : bitmap(size), model(size) {}

  void assign(uint64_t begin, uint64_t end, bool value) {
    if (value) {
      bitmap.set(begin, end);
    } else {
      bitmap.clear(begin, end);
    }
    std::fill(model.begin() + static_cast<long>(begin), model.begin() + static_cast<long>(end),
              value);
  }

  void expect_equal() const {
    ASSERT_EQ(bitmap.size(), model.size());
    ASSERT_EQ(bitmap.count(), static_cast<uint64_t>(std::count(model.begin(), model.end(), true)));
    // By the bits themselves, and by the summaries above them.
    uint64_t found = bitmap.next_set(0, bitmap.size());
    for (uint64_t bit = 0; bit < model.size(); ++bit) {
      ASSERT_EQ(bitmap.test(bit), model[bit]) << bit;
      if (!model[bit]) continue;
      ASSERT_EQ(found, bit);
      found = bitmap.next_set(bit + 1, bitmap.size());
    }
    ASSERT_EQ(found, bitmap.size());
    const std::size_t tail = model.size() % 64;
    if (tail != 0) {
      ASSERT_EQ(bitmap.words().back() >> tail, 0u);
    }
  }

  void expect_searches(uint64_t from, uint64_t to) const {
    const auto first = [&](bool wanted) {
      uint64_t at = from;
      while (at < to && model[at] != wanted) ++at;
      return at;
    };
    ASSERT_EQ(bitmap.next_set(from, to), first(true)) << from << ".." << to;
    ASSERT_EQ(bitmap.next_clear(from, to), first(false)) << from << ".." << to;
  }

  Bitmap bitmap;
  std::vector<bool> model;
};

constexpr uint64_t kSizes[] = {0, 1, 63, 64, 65, 1000, 4096, 4097, 64 * 4096 + 1};

// Ranges of every magnitude: a uniform choice would almost never leave emptiness.
std::pair<uint64_t, uint64_t> range_in(std::mt19937_64& random, uint64_t size) {
  const uint64_t begin = random() % (size + 1);
  const uint64_t most = std::min(size - begin, uint64_t{1} << (random() % 20));
  return {begin, begin + random() % (most + 1)};
}

TEST(Bitmap, DoesWhatAnArrayOfBitsDoes) {
  std::mt19937_64 random(7);
  for (const uint64_t size : kSizes) {
    Pair pair(size);
    for (int i = 0; i < 600; ++i) {
      const auto [begin, end] = range_in(random, size);
      pair.assign(begin, end, random() % 2 != 0);
      if (i % 50 == 0) pair.expect_equal();
      const auto [from, to] = range_in(random, size);
      pair.expect_searches(from, to);
    }
    pair.expect_equal();
    pair.assign(0, size, false);
    pair.expect_equal();
  }
}

TEST(Bitmap, ResizesLikeAnArrayOfBits) {
  std::mt19937_64 random(8);
  Pair pair(1000);
  for (int i = 0; i < 300; ++i) {
    const auto [begin, end] = range_in(random, pair.model.size());
    pair.assign(begin, end, random() % 4 != 0);
    const uint64_t size = kSizes[random() % std::size(kSizes)] + random() % 3;
    pair.bitmap.resize(size);
    pair.model.resize(size, false);
    pair.expect_equal();
  }
}

TEST(Bitmap, MergesAndCopies) {
  std::mt19937_64 random(9);
  for (const uint64_t size : kSizes) {
    Pair one(size), other(size);
    for (int i = 0; i < 20; ++i) {
      const auto [begin, end] = range_in(random, size);
      (random() % 2 != 0 ? one : other).assign(begin, end, true);
    }
    Pair copy = one;
    one.bitmap.merge(other.bitmap);
    for (uint64_t bit = 0; bit < size; ++bit) one.model[bit] = one.model[bit] || other.model[bit];
    one.expect_equal();
    other.expect_equal();
    copy.expect_equal();
    one.bitmap.merge(one.bitmap);
    one.expect_equal();
  }
}

TEST(Bitmap, TakesWords) {
  std::mt19937_64 random(10);
  for (const uint64_t size : kSizes) {
    Pair pair(size);
    for (int i = 0; i < 50; ++i) {
      const uint64_t first = random() % (size / 64 + 1) * 64;
      std::vector<uint64_t> words(random() % 70);
      for (uint64_t& word : words) word = random() % 3 == 0 ? 0 : random();
      pair.bitmap.set_words(first, words);
      for (uint64_t bit = 0; bit < words.size() * 64 && first + bit < size; ++bit) {
        pair.model[first + bit] = (words[bit / 64] >> (bit % 64) & 1) != 0;
      }
    }
    pair.expect_equal();
  }
}

// A disk of 1 PiB in clusters of 512 KiB, with three marks: no search may walk over it.
TEST(Bitmap, FindsTheFewInTheMany) {
  const uint64_t size = uint64_t{1} << 31;
  Bitmap bitmap(size);
  const std::vector<uint64_t> marks = {5, 1'000'000'007, size - 1};
  for (const uint64_t mark : marks) bitmap.set(mark, mark + 1);
  for (int round = 0; round < 10'000; ++round) {
    uint64_t at = 0;
    for (const uint64_t mark : marks) {
      at = bitmap.next_set(at, size);
      ASSERT_EQ(at++, mark);
    }
    ASSERT_EQ(bitmap.next_set(at, size), size);
  }
}

}  // namespace
}  // namespace blockbed
