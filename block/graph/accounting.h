// Accounting: what a backend's requests amounted to, as query-blockstats reports it.
//
// Contract: begin() before a request, then done() or failed() with what it returned. A request that
// never was one (out of bounds, not aligned) is invalid(). Time is that of the guest clock; while
// somebody holds it, every request takes kHeldLatency, so that statistics can be foretold.
// Units: bytes, ns; intervals in seconds. Threading: engine thread only.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "block/graph/timed_statistics.h"
#include "block/runtime/guest_clock.h"

namespace blockbed {

enum class AccountedKind { kRead, kWrite, kFlush, kUnmap };

class Accounting {
 public:
  struct Counters {
    uint64_t bytes = 0;
    uint64_t operations = 0;
    uint64_t failed = 0;
    uint64_t invalid = 0;
    uint64_t merged = 0;
    uint64_t total_time_ns = 0;
  };
  // Latencies of reads, writes and flushes; flushes have no queue that matters.
  struct Interval {
    uint32_t seconds;
    std::array<TimedStatistics, 3> kinds;
  };

  // QEMU's value under its test clock.
  static constexpr int64_t kHeldLatency = 1'000'000;

  explicit Accounting(const GuestClock& clock) : clock_(clock) {}

  bool account_invalid = true;
  bool account_failed = true;

  int64_t begin() const { return clock_.now(); }
  void done(AccountedKind kind, uint64_t bytes, int64_t begun) {
    Counters& c = counters(kind);
    c.bytes += bytes;
    c.operations += 1;
    took_time(kind, begun);
  }
  void failed(AccountedKind kind, int64_t begun) {
    counters(kind).failed += 1;
    if (account_failed) took_time(kind, begun);
  }
  void invalid(AccountedKind kind) {
    counters(kind).invalid += 1;
    if (account_invalid) last_access_ = clock_.now();
  }

  const Counters& of(AccountedKind kind) const { return counters_[static_cast<std::size_t>(kind)]; }
  // Since the last request; negative when there was none.
  int64_t idle_ns() const { return last_access_ < 0 ? -1 : clock_.now() - last_access_; }

  void add_interval(uint32_t seconds);
  std::vector<Interval>& intervals() { return intervals_; }
  int64_t now() const { return clock_.now(); }

 private:
  Counters& counters(AccountedKind kind) { return counters_[static_cast<std::size_t>(kind)]; }
  void took_time(AccountedKind kind, int64_t begun);

  const GuestClock& clock_;
  std::array<Counters, 4> counters_;
  int64_t last_access_ = -1;
  std::vector<Interval> intervals_;
};

}  // namespace blockbed
