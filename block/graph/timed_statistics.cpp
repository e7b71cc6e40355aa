#include "block/graph/timed_statistics.h"

#include <algorithm>

namespace blockbed {

TimedStatistics::TimedStatistics(int64_t interval, int64_t now)
    // In this order four thirds of the longest interval are no overflow.
    : length_(interval / 3 * 4 + interval % 3 * 4 / 3) {
  windows_[0].begin = now;
  windows_[1].begin = now - length_ / 2;
}

void TimedStatistics::account(int64_t latency, int64_t now) {
  expire(now);
  for (Window& window : windows_) {
    window.shortest = window.count == 0 ? latency : std::min(window.shortest, latency);
    window.longest = std::max(window.longest, latency);
    window.sum += latency;
    ++window.count;
  }
}

TimedStatistics::Latencies TimedStatistics::report(int64_t now) {
  expire(now);
  const Window& window = *std::ranges::min_element(windows_, {}, &Window::begin);
  Latencies result;
  if (window.count == 0) return result;
  result.shortest = window.shortest;
  result.longest = window.longest;
  result.average = window.sum / window.count;
  const int64_t covered = std::max<int64_t>(now - window.begin, 1);
  result.queue_depth = static_cast<double>(window.sum) / static_cast<double>(covered);
  return result;
}

void TimedStatistics::expire(int64_t now) {
  for (Window& window : windows_) {
    const int64_t passed = (now - window.begin) / length_;
    if (passed > 0) window = Window{window.begin + passed * length_, 0, 0, 0, 0};
  }
}

}  // namespace blockbed
