// BlockCopy: copies what a bitmap says from one node to another, while guests go on writing to the
// first.
//
// Problem: a backup and the filter that protects it copy the same clusters: one walks over the
// disk, the other runs ahead of every guest write. No cluster may be copied twice, none may be
// overwritten before it was copied, and a guest write may wait for nothing but the clusters that it
// touches.
//
// Contract
//  - A set bit: this cluster of the source still shows the instant of the copy and is not in the
//    target. Whoever is to change the source calls copy_before() first, and changes only when it
//    succeeded. A cluster is claimed (its bit cleared, its range in flight) before its bytes are
//    read; a failure sets the bit again.
//  - Because of that, what block_status said of a cluster stays true as long as its bit is set; one
//    look-up of a long run serves many copies.
//  - copy_before() and run() may go on in parallel, run() once at a time. Both copy: data as data,
//    zeroes as zeroes, and with skip_unallocated nothing where the layers above the source's
//    backing file have nothing.
//  - run() returns when every set bit of its range is copied, when it was stopped, or after the
//    first failure; never with one of its copies in flight.
//  - Nothing is in flight when the object dies.
// Units: bytes and ns. Errors: errno of the source's read or the target's write.
// Source of the rules: cluster sizes and what progress counts are those of QEMU 7.2. Threading:
// engine thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/filters/progress.h"
#include "block/filters/rate_limit.h"
#include "block/filters/spare_buffers.h"
#include "block/graph/bitmap.h"
#include "block/graph/dirty_bitmap.h"
#include "block/graph/edge.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"
#include "block/runtime/result.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

class BlockCopy {
 public:
  // The unit when the target has no clusters.
  static constexpr uint64_t kDefaultCluster = uint64_t{64} << 10;
  // One copy moves at most this much data: large enough to make the cost of a request small, small
  // enough that the buffers of all workers stay in the processor's reach and a guest write never
  // waits for long.
  static constexpr uint64_t kDataChunk = uint64_t{1} << 20;
  // Zeroes cost no buffer.
  static constexpr uint64_t kZeroChunk = uint64_t{32} << 20;
  // Data that one run() has in flight, whatever the number of its workers: more does not make it
  // faster, but makes guests wait that need a cluster at the end of the queue.
  static constexpr uint64_t kMaxRunBytes = uint64_t{16} << 20;

  // Both edges belong to the filter that owns the engine. The bitmap starts with all bits set.
  BlockCopy(Env& env, Edge& source, Edge& target, uint64_t length, uint64_t cluster_size);
  ~BlockCopy();
  BlockCopy(const BlockCopy&) = delete;
  BlockCopy& operator=(const BlockCopy&) = delete;

  uint64_t length() const { return length_; }
  Edge& target() const { return target_; }
  uint64_t cluster_size() const { return cluster_size_; }
  Bitmap& bitmap() { return bitmap_; }
  // Bytes whose bit is set or whose copy is in flight; whole clusters, at the end of the disk too.
  uint64_t remaining() const;

  // --- what is to be copied, in bytes: whole clusters that the range touches
  void select_only(const DirtyBitmap& marked);
  // Nothing of these clusters is wanted any more; returns when none is in flight.
  Task<void> deselect(uint64_t begin, uint64_t end);
  // The first selected (not selected) byte at or behind `offset`, or length().
  uint64_t next_selected(uint64_t offset) const {
    if (offset >= length_) return length_;
    return std::min(bitmap_.next_set(cluster_of(offset), bitmap_.size()) * cluster_size_, length_);
  }
  uint64_t next_unselected(uint64_t offset) const {
    if (offset >= length_) return length_;
    return std::min(bitmap_.next_clear(cluster_of(offset), bitmap_.size()) * cluster_size_,
                    length_);
  }

  // Told of everything that is copied or turns out to need no copy.
  void set_progress(Progress* progress);
  void set_compress(bool compress) { compress_ = compress; }
  // Data is copied inside the host as long as source and target can.
  void set_copy_range(bool copy_range) { copy_range_ = copy_range; }
  void set_skip_unallocated(bool skip) { skip_unallocated_ = skip; }
  // The target shows the source where it has nothing (fleecing): its readers must not be overtaken.
  void set_serialising(bool serialising) { serialising_ = serialising; }

  // Copies what [offset, offset + length) touches; returns when nothing of it is left to copy or in
  // flight.
  Task<Result<void>> copy_before(uint64_t offset, uint64_t length);

  // One walk over the whole disk.
  class Run {
   public:
    explicit Run(Executor& executor) : wake_(executor) {}

    int max_workers = 1;
    // 0: no wish of its own.
    uint64_t max_chunk = 0;
    RateLimit* rate_limit = nullptr;

    // Ends the walk after what is in flight.
    void stop() {
      stop_ = true;
      kick();
    }
    // Looks at the rate limit again.
    void kick() {
      if (timer_ != nullptr) timer_->cancel();
      wake_.wake_all();
    }

    const std::optional<Errno>& error() const { return error_; }
    bool error_is_read() const { return error_is_read_; }
    // Everything was copied.
    bool complete() const { return complete_; }

   private:
    friend class BlockCopy;
    bool stop_ = false;
    bool complete_ = false;
    bool error_is_read_ = false;
    int active_ = 0;
    std::optional<Errno> error_;
    std::unique_ptr<Timer> timer_;
    WaitQueue wake_;
  };
  Task<void> run(Run& run);

  // Clears the bits of clusters in which no layer above the source's backing file has anything,
  // from `offset` on, for one run of equal answers; the offset where the next one begins. For
  // skip_unallocated, so that the progress is right.
  Task<Result<uint64_t>> skip_unallocated_from(uint64_t offset);

  bool in_flight() const { return in_flight_head_ != nullptr; }
  // Whether copy_before() would have something to do or to wait for: for callers in a hurry.
  bool concerns(uint64_t offset, uint64_t length) const;

 private:
  enum class Kind { kData, kZero, kUnallocated };
  // A run of clusters with one answer.
  struct Extent {
    uint64_t begin = 0;
    uint64_t end = 0;
    Kind kind = Kind::kData;
  };
  // A claimed range on its way; lives in the frame of the task that copies it.
  class InFlight;

  Task<Result<Extent>> look_up(uint64_t offset, uint64_t end, bool keep);
  // What may be claimed now, beginning at a set bit: never more than one kind, one chunk, one
  // stretch of set bits.
  Extent next_claim(uint64_t offset, uint64_t end, const Extent& known, uint64_t chunk,
                    uint64_t zero_chunk) const;
  Task<Result<void>> copy(Extent claim, bool& error_is_read);
  Task<Result<void>> copy_data(Extent claim, bool& error_is_read);
  Task<void> copy_for_run(Extent claim, Run& run);
  InFlight* find_in_flight(uint64_t begin, uint64_t end) const;
  uint64_t data_chunk(uint64_t wish) const;
  void give_back(Buffer buffer);
  Task<void> wait_for_rate(Run& run, int64_t delay);

  uint64_t cluster_of(uint64_t offset) const { return offset / cluster_size_; }
  // The number of clusters that [0, offset) touches.
  uint64_t clusters_to(uint64_t offset) const {
    return offset / cluster_size_ + (offset % cluster_size_ != 0 ? 1 : 0);
  }
  // What progress and remaining() have of it.
  uint64_t counted(const Extent& extent) const {
    return (clusters_to(extent.end) - cluster_of(extent.begin)) * cluster_size_;
  }
  bool known(uint64_t offset) const { return known_.begin <= offset && offset < known_.end; }

  Env& env_;
  Edge& source_;
  Edge& target_;
  uint64_t length_;
  uint64_t cluster_size_;
  Bitmap bitmap_;
  Progress* progress_ = nullptr;
  uint64_t in_flight_bytes_ = 0;
  bool compress_ = false;
  bool copy_range_ = false;
  bool skip_unallocated_ = false;
  bool serialising_ = false;
  bool walking_ = false;
  InFlight* in_flight_head_ = nullptr;
  Extent known_;
  SpareBuffers spare_{kDataChunk, kMaxRunBytes / kDataChunk};
  Gate workers_;
};

}  // namespace blockbed
