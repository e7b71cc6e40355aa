// Bitmap: a set of positions of a disk, made for few large runs in much emptiness.
//
// Problem: what is dirty, or still to be copied, is asked for after every request and walked over
// by every job; most of it is empty, or is full, for long.
//
// Contract
//  - Every level above the bits has one bit for each word of the level below, which is set when
//    that word is not zero. So a search skips emptiness by powers of 64, and costs a few steps
//    wherever the next bit is.
//  - set() and clear() cost one step for 64 bits of their range. Memory is taken from the system
//    untouched: what was never set costs none.
//  - Who makes one checks kMaxBits before, or fits().
// Threading: plain data.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

namespace blockbed {

class Bitmap {
 public:
  // A gigabyte of bits: 512 TiB of disk in units of 64 KiB. Larger disks exist on paper only
  // (null-co), and a client could otherwise make the server allocate without end.
  static constexpr uint64_t kMaxBits = uint64_t{1} << 33;

  // Has a disk of that length at most so many pieces?
  static bool fits(uint64_t length, uint64_t piece) {
    return length / piece + (length % piece == 0 ? 0 : 1) <= kMaxBits;
  }

  // All bits are clear.
  explicit Bitmap(uint64_t bits = 0);
  Bitmap(const Bitmap& other);
  Bitmap& operator=(const Bitmap& other);
  Bitmap(Bitmap&&) noexcept = default;
  Bitmap& operator=(Bitmap&&) noexcept = default;

  uint64_t size() const { return bits_; }
  uint64_t count() const { return count_; }
  bool test(uint64_t bit) const { return (levels_[0][bit / 64] >> (bit % 64) & 1) != 0; }

  void set(uint64_t begin, uint64_t end);
  void clear(uint64_t begin, uint64_t end);
  // All of them, and the memory is given back.
  void clear();
  // New bits are clear.
  void resize(uint64_t bits);
  // Sets what is set in `other`, which has the same size.
  void merge(const Bitmap& other);
  // The bits from `first` on, a multiple of 64, become those of `words`; what lies behind the end
  // is left out.
  void set_words(uint64_t first, std::span<const uint64_t> words);

  // The first set (clear) bit in [begin, end), or end.
  uint64_t next_set(uint64_t begin, uint64_t end) const;
  uint64_t next_clear(uint64_t begin, uint64_t end) const;

  // Bit n is bit n % 64 of word n / 64; one word at least, and zero behind the end.
  std::span<const uint64_t> words() const { return {levels_[0].words.get(), levels_[0].size}; }

 private:
  struct Free {
    void operator()(uint64_t* words) const { std::free(words); }
  };
  struct Level {
    explicit Level(uint64_t words_needed);
    uint64_t& operator[](uint64_t index) { return words[index]; }
    const uint64_t& operator[](uint64_t index) const { return words[index]; }

    std::unique_ptr<uint64_t[], Free> words;
    uint64_t size;
  };

  static constexpr uint64_t kNone = UINT64_MAX;

  // At or behind `from` on that level; kNone: there is none.
  uint64_t find_set(std::size_t level, uint64_t from) const;
  // The first word of bits at or behind `from` that is not zero; kNone: there is none.
  uint64_t next_word(uint64_t from) const;
  uint64_t word(uint64_t index) const;
  void raise(uint64_t first_word, uint64_t last_word);
  void take_words(const Bitmap& other);

  uint64_t bits_;
  uint64_t count_ = 0;
  // The bits, then ever shorter summaries, down to one word.
  std::vector<Level> levels_;
};

}  // namespace blockbed
