// OrderDisk: of one file, what each of its sectors may hold after a power cut at this instant.
//
// Problem: order_judge_fixture.h asks "is this on the disk?" at every write. That is no question
// about one state, but about all that a crash may leave: what the last flush covered, and each
// version that was written since, whether its request has ended or not.
//
// Contract: begin() of a change, then effect() of it, or of parts of it and fail(), each with the
// number of the operation, which grow and begin with 1. What was written and not flushed are
// versions of a sector, oldest first; the last is the one that reads see, or will. Copying is
// cheap. Written apart from sim_disk.h, by the policy at its top. Units: bytes. Threading: plain
// data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "block/sim/sim_disk.h"
#include "block/sim/sparse_bytes.h"

namespace blockbed::qcow2::test {

class OrderDisk {
 public:
  using Sector = std::array<std::byte, sim::kSector>;
  struct Version {
    uint64_t request = 0;
    // The operation that began it.
    uint64_t begun = 0;
    // The one with which it took effect; not yet.
    uint64_t effect = UINT64_MAX;
    // The whole sector as it was to be then; of it only [from, to) was written.
    std::shared_ptr<const Sector> bytes;
    uint32_t from = 0;
    uint32_t to = 0;

    bool writes(uint64_t begin, uint64_t end) const { return from < end && begin < to; }
    void put_into(std::byte* sector) const;
  };

  OrderDisk() = default;
  explicit OrderDisk(sim::SparseBytes content) : durable_(std::move(content)) {
    size_ = durable_.size();
  }

  void begin(uint64_t request, uint64_t operation, const sim::Change& change);
  void effect(uint64_t request, uint64_t operation, const sim::Change& change);
  void fail(uint64_t request);
  // A flush that began with this operation has ended. The sectors that have other versions now.
  std::vector<uint64_t> make_durable(uint64_t flush_begun);

  // What a flush covered; beyond the end are zeroes.
  void read_durable(uint64_t offset, std::span<std::byte> into) const;
  // With all that was written since.
  void read_newest(uint64_t offset, std::span<std::byte> into) const;
  // Null: nothing but what is durable.
  const std::vector<Version>* pending(uint64_t sector) const {
    const auto at = pending_.find(sector);
    return at == pending_.end() ? nullptr : &at->second;
  }
  bool pending_in(uint64_t offset, uint64_t bytes) const;
  const std::map<uint64_t, std::vector<Version>>& all_pending() const { return pending_; }
  // All that was written there and has become durable, in that order.
  struct Written {
    uint64_t begun = 0;
    uint64_t effect = 0;
  };
  std::span<const Written> written(uint64_t sector) const {
    const auto at = written_.find(sector);
    return at == written_.end() ? std::span<const Written>() : at->second;
  }
  bool durable_zero(uint64_t sector) const;
  uint64_t size() const { return size_; }

 private:
  void add(uint64_t sector, uint64_t request, uint64_t operation,
           std::shared_ptr<const Sector> bytes, uint32_t from, uint32_t to);

  sim::SparseBytes durable_;
  // As reads see it, with changes of size under way.
  uint64_t size_ = 0;
  std::map<uint64_t, std::vector<Version>> pending_;
  std::unordered_map<uint64_t, std::vector<Written>> written_;
  // Of each request under way, [first, last].
  std::map<uint64_t, std::pair<uint64_t, uint64_t>> under_way_;
  // The size that each that cuts the file has found.
  std::map<uint64_t, uint64_t> cut_from_;
};

}  // namespace blockbed::qcow2::test
