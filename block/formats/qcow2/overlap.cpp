#include "block/formats/qcow2/overlap.h"

#include <array>

namespace blockbed::qcow2 {

namespace overlap {

std::string_view class_words(uint32_t bit) {
  constexpr std::array<std::string_view, 9> kWords = {
      "qcow2_header",      "active L1 table",   "active L2 table",
      "refcount block",    "refcount table",    "snapshot table",
      "inactive L1 table", "inactive L2 table", "bitmap directory"};
  return kWords[static_cast<std::size_t>(__builtin_ctz(bit))];
}

}  // namespace overlap

void OverlapMap::add(uint32_t classes, uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return;
  const uint64_t last = (offset + bytes - 1) >> cluster_bits_;
  for (uint64_t cluster = offset >> cluster_bits_; cluster <= last; ++cluster) {
    clusters_[cluster] |= classes;
  }
}

void OverlapMap::remove(uint32_t classes, uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return;
  const uint64_t last = (offset + bytes - 1) >> cluster_bits_;
  auto at = clusters_.lower_bound(offset >> cluster_bits_);
  while (at != clusters_.end() && at->first <= last) {
    at->second &= ~classes;
    at = at->second == 0 ? clusters_.erase(at) : std::next(at);
  }
}

uint32_t OverlapMap::find(uint32_t checked, uint64_t offset, uint64_t bytes) const {
  if (checked == 0 || bytes == 0) return 0;
  const uint64_t last = (offset + bytes - 1) >> cluster_bits_;
  uint32_t found = 0;
  for (auto at = clusters_.lower_bound(offset >> cluster_bits_);
       at != clusters_.end() && at->first <= last; ++at) {
    found |= at->second & checked;
  }
  return found & (~found + 1);
}

}  // namespace blockbed::qcow2
