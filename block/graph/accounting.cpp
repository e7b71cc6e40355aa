#include "block/graph/accounting.h"

namespace blockbed {

void Accounting::add_interval(uint32_t seconds) {
  const TimedStatistics empty(int64_t{seconds} * 1'000'000'000, clock_.now());
  intervals_.push_back(Interval{seconds, {empty, empty, empty}});
}

void Accounting::took_time(AccountedKind kind, int64_t begun) {
  last_access_ = clock_.now();
  const int64_t latency = clock_.held() ? kHeldLatency : last_access_ - begun;
  counters(kind).total_time_ns += static_cast<uint64_t>(latency);
  const auto place = static_cast<std::size_t>(kind);
  for (Interval& interval : intervals_) {
    if (place < interval.kinds.size()) interval.kinds[place].account(latency, last_access_);
  }
}

}  // namespace blockbed
