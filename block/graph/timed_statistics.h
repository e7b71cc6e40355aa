// TimedStatistics: latencies of the recent past, of an interval that a user asks for.
//
// Problem: what a disk was like in the last minute must be answered without keeping every request.
//
// Contract: two windows overlap by half; the report is the older one's. A window lasts four thirds
// of the interval, so what is reported covers two thirds to four thirds of it: the interval on
// average. Units: nanoseconds of the guest clock. Source of the rule: QEMU 7.2, measured.
// Threading: plain data.
#pragma once

#include <array>
#include <cstdint>

namespace blockbed {

class TimedStatistics {
 public:
  struct Latencies {
    int64_t shortest = 0;
    int64_t longest = 0;
    int64_t average = 0;
    // Requests under way, on average.
    double queue_depth = 0;
  };

  TimedStatistics(int64_t interval, int64_t now);

  void account(int64_t latency, int64_t now);
  Latencies report(int64_t now);

 private:
  struct Window {
    int64_t begin = 0;
    int64_t count = 0;
    int64_t sum = 0;
    int64_t shortest = 0;
    int64_t longest = 0;
  };

  void expire(int64_t now);

  int64_t length_;
  std::array<Window, 2> windows_;
};

}  // namespace blockbed
