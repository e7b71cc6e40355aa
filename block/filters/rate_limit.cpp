#include "block/filters/rate_limit.h"

#include <algorithm>

namespace blockbed {

namespace {

// A year: what a client asks for with a speed of 1 byte a second must not overflow the clock.
constexpr int64_t kLongestPause = int64_t{365} * 24 * 3600 * 1'000'000'000;

}  // namespace

void RateLimit::set_speed(uint64_t bytes_per_second) {
  if (bytes_per_second == 0 || bytes_per_second > speed_) paid_at_ = INT64_MIN;
  speed_ = bytes_per_second;
}

int64_t RateLimit::delay(int64_t now) const {
  if (speed_ == 0 || paid_at_ <= now) return 0;
  return paid_at_ - now;
}

void RateLimit::account(uint64_t bytes, int64_t now) {
  if (speed_ == 0) return;
  const int64_t from = std::max(paid_at_, now - kBurst);
  const double ns = static_cast<double>(bytes) * 1e9 / static_cast<double>(speed_);
  paid_at_ = from + static_cast<int64_t>(std::min(ns, static_cast<double>(kLongestPause)));
}

}  // namespace blockbed
