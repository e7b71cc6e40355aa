// GoldenDisk: what a disk may show, from nothing but the writes that were sent and how they ended.
//
// Every write has a number, and every sector that it writes is filled with that number. A sector
// knows the numbers that it may show now (more than one after a write that failed), and those that
// it may show after a crash.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace blockbed::test {

class GoldenDisk {
 public:
  static constexpr uint64_t kSector = 512;

  struct Sector {
    std::vector<uint64_t> now{0};
    std::vector<uint64_t> after_crash{0};
    uint64_t changed = 0;
    bool in_flight = false;
  };

  explicit GoldenDisk(uint64_t size) : sectors_(size / kSector) {}

  uint64_t size() const { return sectors_.size() * kSector; }

  static void fill(std::span<std::byte> bytes, uint64_t number) {
    for (uint64_t at = 0; at < bytes.size(); at += sizeof number) {
      std::memcpy(bytes.data() + at, &number, sizeof number);
    }
  }
  // The number that a sector of bytes shows; none when it is torn.
  static std::optional<uint64_t> shown(const std::byte* sector) {
    uint64_t first;
    std::memcpy(&first, sector, sizeof first);
    for (uint64_t at = 0; at < kSector; at += sizeof first) {
      if (std::memcmp(sector + at, &first, sizeof first) != 0) return std::nullopt;
    }
    return first;
  }

  uint64_t next_number() { return ++numbers_; }
  // Content that was always there.
  void preset(uint64_t offset, uint64_t length, uint64_t number) {
    for_range(offset, length, [&](Sector& s) { s.now = s.after_crash = {number}; });
  }
  bool busy(uint64_t offset, uint64_t length) {
    bool result = false;
    for_range(offset, length, [&](Sector& s) { result = result || s.in_flight; });
    return result;
  }
  void begin(uint64_t offset, uint64_t length, uint64_t number) {
    ++clock_;
    for_range(offset, length, [&](Sector& s) {
      s.in_flight = true;
      s.changed = clock_;
      add(s.after_crash, number);
    });
  }
  void end(uint64_t offset, uint64_t length, uint64_t number, bool succeeded,
           bool optional = false) {
    ++clock_;
    for_range(offset, length, [&](Sector& s) {
      s.in_flight = false;
      s.changed = clock_;
      if (succeeded && !optional) {
        s.now = {number};
      } else {
        add(s.now, number);
      }
    });
  }
  // It was not carried out at all.
  void refused(uint64_t offset, uint64_t length) {
    ++clock_;
    for_range(offset, length, [&](Sector& s) {
      s.in_flight = false;
      s.changed = clock_;
    });
  }
  // It ended, and was told to be on the disk.
  void durable(uint64_t offset, uint64_t length) {
    for_range(offset, length, [&](Sector& s) { s.after_crash = s.now; });
  }
  // Nobody writes there while it is read.
  void reading(uint64_t offset, uint64_t length, bool on) {
    for_range(offset, length, [&](Sector& s) { s.in_flight = on; });
  }
  uint64_t flush_begins() const { return clock_; }
  void flushed(uint64_t since) {
    for (Sector& s : sectors_) {
      if (!s.in_flight && s.changed <= since) s.after_crash = s.now;
    }
  }

  // The first sector of `bytes` that shows what it may not; none when all is well.
  std::optional<uint64_t> first_wrong(const std::vector<std::byte>& bytes,
                                      bool crashed = false) const {
    for (uint64_t i = 0; i < sectors_.size(); ++i) {
      if (!may_show(i, bytes.data() + i * kSector, crashed)) return i;
    }
    return std::nullopt;
  }
  bool may_show(uint64_t sector, const std::byte* bytes, bool crashed = false) const {
    const std::optional<uint64_t> number = shown(bytes);
    const Sector& s = sectors_[sector];
    return number && has(crashed ? s.after_crash : s.now, *number);
  }

 private:
  template <class F>
  void for_range(uint64_t offset, uint64_t length, const F& f) {
    for (uint64_t i = offset / kSector; i < (offset + length) / kSector; ++i) f(sectors_[i]);
  }
  static bool has(const std::vector<uint64_t>& set, uint64_t number) {
    return std::ranges::find(set, number) != set.end();
  }
  static void add(std::vector<uint64_t>& set, uint64_t number) {
    if (!has(set, number)) set.push_back(number);
  }

  std::vector<Sector> sectors_;
  uint64_t numbers_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace blockbed::test
