// OverlapMap: which clusters of the file hold metadata.
//
// Problem: an image with wrong tables would have its own metadata overwritten by guest data. Before
// a write the place is looked up here; a hit means that the image is corrupt.
//
// Contract: classes are bits; a cluster may be of several (that is what a corrupt image looks
// like). Costs one search in a tree of table clusters, nothing when no class is checked. Units:
// bytes. Threading: engine thread only. Source: names and classes of QEMU's option `overlap-check`.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>

#include "block/formats/qcow2/geometry.h"

namespace blockbed::qcow2 {

namespace overlap {
inline constexpr uint32_t kMainHeader = 1u << 0;
inline constexpr uint32_t kActiveL1 = 1u << 1;
inline constexpr uint32_t kActiveL2 = 1u << 2;
inline constexpr uint32_t kRefcountBlock = 1u << 3;
inline constexpr uint32_t kRefcountTable = 1u << 4;
inline constexpr uint32_t kSnapshotTable = 1u << 5;
inline constexpr uint32_t kInactiveL1 = 1u << 6;
inline constexpr uint32_t kInactiveL2 = 1u << 7;
inline constexpr uint32_t kBitmapDirectory = 1u << 8;

inline constexpr uint32_t kNone = 0;
inline constexpr uint32_t kConstant =
    kMainHeader | kActiveL1 | kRefcountTable | kSnapshotTable | kBitmapDirectory;
inline constexpr uint32_t kCached = kConstant | kActiveL2 | kRefcountBlock | kInactiveL1;
inline constexpr uint32_t kAll = kCached | kInactiveL2;

// "active L2 table": the words of QEMU's message.
std::string_view class_words(uint32_t bit);
}  // namespace overlap

class OverlapMap {
 public:
  explicit OverlapMap(uint32_t cluster_bits) : cluster_bits_(cluster_bits) {}

  void add(uint32_t classes, uint64_t offset, uint64_t bytes);
  void remove(uint32_t classes, uint64_t offset, uint64_t bytes);
  // The lowest class among `checked` that [offset, offset + bytes) meets; 0 when none.
  uint32_t find(uint32_t checked, uint64_t offset, uint64_t bytes) const;
  void clear() { clusters_.clear(); }

 private:
  uint32_t cluster_bits_;
  // By cluster index.
  std::map<uint64_t, uint32_t> clusters_;
};

}  // namespace blockbed::qcow2
