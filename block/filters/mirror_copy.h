// MirrorCopy: keeps a target equal to a disk that guests write to.
//
// Problem: a mirror copies what differs, and guests make new differences all the while. What is
// copied must be what the disk shows, no copy may arrive after a newer one, and in the blocking
// mode a guest's write is on both sides before the guest hears of it.
//
// Contract
//  - A set bit: this granule of the target may differ from the source. changed() sets bits when a
//    write has ended; a copy clears them before it reads. So whatever is written while it is read
//    is copied again.
//  - Copies and writes to both never overlap with each other: whoever comes later waits.
//  - copy_pass() copies, in one pass from the beginning to the end, what is marked when it comes
//    there, several chunks at a time. It returns with none of its copies in flight: at the end,
//    when it was stopped, or after a failure. What failed is marked again.
//  - write(), zero() and discard() are a guest's request to the source that is carried out on both
//    sides. What fails on the target only is marked, and on_copy_failed is told; the guest does not
//    notice.
//  - Nothing is in flight when the object dies.
// Units: bytes and ns. Errors: errno of the source's read or the target's write.
// Source of the rules: granularity, requests in flight and what progress counts are those of
// QEMU 7.2's mirror. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "block/filters/copy_failure.h"
#include "block/filters/progress.h"
#include "block/filters/rate_limit.h"
#include "block/filters/spare_buffers.h"
#include "block/filters/write_behind.h"
#include "block/graph/bitmap.h"
#include "block/graph/edge.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"
#include "block/runtime/result.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

class MirrorCopy {
 public:
  static constexpr int kMaxInFlight = 16;
  // One copy moves so much data at least, when so much is marked in a row.
  static constexpr uint64_t kDataChunk = uint64_t{1} << 20;
  // Zeroes cost no buffer.
  static constexpr uint64_t kZeroChunk = uint64_t{32} << 20;
  static constexpr uint64_t kDefaultBuffer = kMaxInFlight * kDataChunk;

  struct Settings {
    // What a bit stands for: a power of two.
    uint64_t granularity = uint64_t{64} << 10;
    // Data in flight at most.
    uint64_t buffer_size = kDefaultBuffer;
    // What is written at once: clusters of a target that must not be filled in part, because what
    // belongs around the data is not there yet.
    uint64_t unit = 1;
    // However low the speed is, so much is copied at once.
    uint64_t least_piece = 0;
    bool unmap = true;
    // Zeroes are charged to the rate limit like data.
    bool zeroes_cost = false;

    Settings() = default;
  };

  // `source` belongs to the filter through which guests write, `target` to the job. No bit is set.
  MirrorCopy(Env& env, Edge& source, Edge& target, uint64_t length, Settings settings);
  ~MirrorCopy();
  MirrorCopy(const MirrorCopy&) = delete;
  MirrorCopy& operator=(const MirrorCopy&) = delete;

  uint64_t length() const { return length_; }
  const Settings& settings() const { return settings_; }
  bool dirty() const { return bitmap_.count() > 0; }
  // Bytes that are marked, in whole granules.
  uint64_t marked() const { return bitmap_.count() * settings_.granularity; }
  // Bytes that are marked or in flight.
  uint64_t remaining() const;
  void set_progress(Progress* progress);
  // Bytes that will be looked at later, and count as remaining until then.
  void set_ahead(uint64_t bytes);

  // Called when something is marked; it must not resume anybody at once.
  std::function<void()> on_dirty;
  // A request to both did not get through to the target.
  std::function<void(Errno, bool is_read)> on_copy_failed;

  void changed(uint64_t offset, uint64_t length);

  // --- guests' requests
  bool writes_to_both() const { return writes_to_both_; }
  void set_writes_to_both(bool both) { writes_to_both_ = both; }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags);
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags);
  Task<Result<void>> discard(uint64_t offset, uint64_t length);

  // --- the background
  class Pass {
   public:
    explicit Pass(Executor& executor) : wake_(executor) {}

    RateLimit* rate_limit = nullptr;

    // Ends the pass after what is in flight.
    void stop() {
      stop_ = true;
      kick();
    }
    // Looks at the rate limit again.
    void kick() {
      if (timer_ != nullptr) timer_->cancel();
      wake_.wake_all();
    }

    // The first, and those of the copies that were under way with it.
    const std::vector<CopyFailure>& failures() const { return failures_; }
    // It came to the end.
    bool complete() const { return !stop_ && failures_.empty(); }

   private:
    friend class MirrorCopy;

    bool stop_ = false;
    int active_ = 0;
    uint64_t active_bytes_ = 0;
    std::vector<CopyFailure> failures_;
    std::unique_ptr<Timer> timer_;
    WaitQueue wake_;
  };
  Task<void> copy_pass(Pass& pass);

  bool in_flight() const { return in_flight_head_ != nullptr; }

  // Before the object dies or the target goes away.
  Task<void> wait_written_behind() { return written_behind_.wait_idle(); }

 private:
  // kNothing: no layer says what is there, and the target need not hold anything either.
  enum class Kind { kData, kZero, kNothing };
  struct Extent {
    uint64_t begin = 0;
    uint64_t end = 0;
    Kind kind = Kind::kData;

    uint64_t length() const { return end - begin; }
    bool overlaps(uint64_t other_begin, uint64_t other_end) const {
      return begin < other_end && other_begin < end;
    }
  };
  // A range on its way to the target; lives in the frame of who copies it.
  class InFlight;

  Task<Extent> look_up(uint64_t offset, Pass& pass);
  Extent next_claim(uint64_t offset, const Extent& known, const Pass& pass) const;
  Task<Result<void>> copy(const Extent& claim, bool& error_is_read);
  Task<Result<void>> copy_data(const Extent& claim, bool& error_is_read);
  Task<void> copy_for_pass(Extent claim, Pass& pass);
  bool costs(Kind kind, const Pass& pass) const;
  // False: the rate limit let time pass, and all is to be looked at again.
  Task<bool> pay(const Extent& claim, Pass& pass);

  Extent whole_units(uint64_t offset, uint64_t length) const;
  InFlight* find_in_flight(uint64_t begin, uint64_t end) const;
  Task<void> wait_for_range(Extent range);
  // The request reached the source and is on the target as well, or is not.
  void settle(uint64_t offset, uint64_t length, const Result<void>& on_target, bool error_is_read);
  void forget_known(uint64_t begin, uint64_t end);
  void update_progress();

  uint64_t granule_of(uint64_t offset) const { return offset / settings_.granularity; }
  // The number of granules that [0, offset) touches.
  uint64_t granules_to(uint64_t offset) const {
    return (offset + settings_.granularity - 1) / settings_.granularity;
  }

  Env& env_;
  Edge& source_;
  Edge& target_;
  uint64_t length_;
  Settings settings_;
  Bitmap bitmap_;
  Progress* progress_ = nullptr;
  uint64_t ahead_ = 0;
  uint64_t in_flight_bytes_ = 0;
  InFlight* in_flight_head_ = nullptr;
  bool writes_to_both_ = false;
  // What the source said last, as long as nobody has written there since; and what it is being
  // asked, with whether somebody wrote there meanwhile.
  Extent known_;
  Extent asked_;
  bool answer_is_stale_ = false;
  SpareBuffers spare_{kDataChunk, kMaxInFlight};
  Gate copies_;
  WriteBehind written_behind_;
};

}  // namespace blockbed
