// CountTable: how often each cluster of a file is referred to.
//
// Problem: a check counts references for every cluster of files that may be larger than memory, and
// tables of a broken image may refer to any place in it.
//
// Contract: counters are as wide as the image's own counts (narrower than 8 bits: 8; wider than 32:
// 32) and stop at `max`; memory is taken in pages of kPageBytes, for places that are counted.
// Bounds: kMaxCountBytes in all, then add() says so. Units: clusters. Threading: plain data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

namespace blockbed::qcow2 {

// 16-bit counters of 32 TiB in clusters of 64 KiB.
inline constexpr uint64_t kMaxCountBytes = uint64_t{1} << 30;

class CountTable {
 public:
  static constexpr uint32_t kPageShift = 12;
  static constexpr uint64_t kPageBytes = uint64_t{1} << kPageShift;

  explicit CountTable(uint32_t refcount_order)
      : width_shift_(refcount_order <= 3   ? 0
                     : refcount_order == 4 ? 1
                                           : 2),
        page_shift_(kPageShift - width_shift_),
        max_(refcount_order >= 5 ? UINT32_MAX
                                 : (uint64_t{1} << (uint64_t{1} << refcount_order)) - 1) {}

  // How many of `times` the counter could not take. Nothing: there is no memory for it.
  std::optional<uint64_t> add(uint64_t cluster, uint64_t times = 1) {
    std::byte* const page = make_page(cluster >> page_shift_);
    if (page == nullptr) return std::nullopt;
    std::byte* const at = page + place(cluster);
    const uint64_t count = load(at);
    const uint64_t taken = std::min(times, max_ - count);
    store(at, count + taken);
    return times - taken;
  }
  // Of a cluster that was counted.
  void remove(uint64_t cluster) {
    std::byte* const at = make_page(cluster >> page_shift_) + place(cluster);
    store(at, load(at) - 1);
  }
  uint64_t operator[](uint64_t cluster) const {
    const uint64_t number = cluster >> page_shift_;
    if (number != last_number_) {
      const auto found = pages_.find(number);
      if (found == pages_.end()) return 0;
      last_number_ = number;
      last_page_ = found->second.get();
    }
    return load(last_page_ + place(cluster));
  }
  void clear() {
    pages_.clear();
    last_number_ = UINT64_MAX;
  }
  uint64_t max() const { return max_; }

  // The first cluster at or behind `from` that is counted. UINT64_MAX: there is none.
  uint64_t next_counted(uint64_t from) const {
    if (from >> page_shift_ == last_number_) {
      from = next_in_page(last_page_, from);
      if (from >> page_shift_ == last_number_) return from;
    }
    for (auto page = pages_.lower_bound(from >> page_shift_); page != pages_.end(); ++page) {
      last_number_ = page->first;
      last_page_ = page->second.get();
      from = next_in_page(last_page_, std::max(from, last_number_ << page_shift_));
      if (from >> page_shift_ == last_number_) return from;
    }
    return UINT64_MAX;
  }

 private:
  std::byte* make_page(uint64_t number) {
    if (number == last_number_) return last_page_;
    auto found = pages_.find(number);
    if (found == pages_.end()) {
      if (pages_.size() >= kMaxCountBytes / kPageBytes) return nullptr;
      found = pages_.emplace(number, std::make_unique<std::byte[]>(kPageBytes)).first;
    }
    last_number_ = number;
    last_page_ = found->second.get();
    return last_page_;
  }
  // Behind the page when there is none in it.
  uint64_t next_in_page(const std::byte* page, uint64_t from) const {
    const uint64_t end = ((from >> page_shift_) + 1) << page_shift_;
    while (from < end && load(page + place(from)) == 0) ++from;
    return from;
  }
  // Of a counter in its page.
  uint64_t place(uint64_t cluster) const {
    return (cluster & ((uint64_t{1} << page_shift_) - 1)) << width_shift_;
  }
  uint64_t load(const std::byte* at) const {
    switch (width_shift_) {
      case 0:
        return static_cast<uint64_t>(*at);
      case 1:
        return load_as<uint16_t>(at);
      default:
        return load_as<uint32_t>(at);
    }
  }
  void store(std::byte* at, uint64_t value) const {
    switch (width_shift_) {
      case 0:
        *at = static_cast<std::byte>(value);
        break;
      case 1:
        store_as<uint16_t>(at, value);
        break;
      default:
        store_as<uint32_t>(at, value);
        break;
    }
  }
  template <class T>
  static uint64_t load_as(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
  }
  template <class T>
  static void store_as(std::byte* at, uint64_t value) {
    const T narrow = static_cast<T>(value);
    std::memcpy(at, &narrow, sizeof(T));
  }

  uint32_t width_shift_;
  // log2 of the counters of a page.
  uint32_t page_shift_;
  uint64_t max_;
  std::map<uint64_t, std::unique_ptr<std::byte[]>> pages_;
  mutable uint64_t last_number_ = UINT64_MAX;
  mutable std::byte* last_page_ = nullptr;
};

}  // namespace blockbed::qcow2
