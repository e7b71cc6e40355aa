// CopyBitmap: which clusters of a disk are still to be copied.
//
// Contract: a bit stands for one cluster; the last cluster may be shorter than the others. Ranges
// are given in clusters. Searches cost one step for 64 clusters. Bounds: kMaxClusters; who makes
// one checks the size of the disk before. Threading: plain data.
#pragma once

#include <cstdint>
#include <vector>

namespace blockbed {

class CopyBitmap {
 public:
  // A gigabyte of bits: 512 TiB of disk at the smallest cluster. Larger disks exist on paper only
  // (null-co), and a client could otherwise make the server allocate without end.
  static constexpr uint64_t kMaxClusters = uint64_t{1} << 33;

  // All bits are clear.
  explicit CopyBitmap(uint64_t clusters);

  uint64_t size() const { return clusters_; }
  uint64_t count() const { return count_; }
  bool test(uint64_t cluster) const { return (words_[cluster / 64] >> (cluster % 64) & 1) != 0; }

  void set(uint64_t begin, uint64_t end);
  void clear(uint64_t begin, uint64_t end);

  // The first set (clear) bit in [begin, end), or end.
  uint64_t next_set(uint64_t begin, uint64_t end) const;
  uint64_t next_clear(uint64_t begin, uint64_t end) const;

 private:
  template <bool kSet>
  void assign(uint64_t begin, uint64_t end);
  template <bool kSet>
  uint64_t next(uint64_t begin, uint64_t end) const;

  uint64_t clusters_;
  uint64_t count_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace blockbed
