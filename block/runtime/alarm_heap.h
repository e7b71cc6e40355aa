// AlarmHeap: points in time that coroutines wait for, earliest first.
//
// Contract: an Alarm lives in the frame of the coroutine that waits; arming allocates nothing once
// the heap is warm. Equal deadlines leave in any order. Units: nanoseconds of the owner's clock.
// Threading: engine thread only.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "block/runtime/assert.h"

namespace blockbed {

struct Alarm {
  static constexpr std::size_t kIdle = SIZE_MAX;

  int64_t deadline = 0;
  std::coroutine_handle<> waiter = {};
  // Set when the deadline has passed, as opposed to the wait having been ended.
  bool fired = false;
  // In the heap; kIdle outside.
  std::size_t place = kIdle;

  bool armed() const { return place != kIdle; }
};

class AlarmHeap {
 public:
  bool empty() const { return heap_.empty(); }
  std::size_t size() const { return heap_.size(); }
  int64_t earliest() const { return heap_.front()->deadline; }

  void arm(Alarm& alarm) {
    BB_ASSERT(!alarm.armed());
    alarm.fired = false;
    heap_.push_back(&alarm);
    sift_up(heap_.size() - 1);
  }

  void disarm(Alarm& alarm) {
    const std::size_t place = alarm.place;
    BB_ASSERT(place < heap_.size() && heap_[place] == &alarm);
    alarm.place = Alarm::kIdle;
    Alarm* last = heap_.back();
    heap_.pop_back();
    if (last == &alarm) return;
    heap_[place] = last;
    last->place = place;
    sift_up(place);
    sift_down(last->place);
  }

  // The earliest, when it is due; it has left the heap and is marked as fired.
  Alarm* pop_due(int64_t now) {
    if (heap_.empty() || earliest() > now) return nullptr;
    Alarm* first = heap_.front();
    disarm(*first);
    first->fired = true;
    return first;
  }

 private:
  void put(Alarm* alarm, std::size_t place) {
    heap_[place] = alarm;
    alarm->place = place;
  }
  void sift_up(std::size_t place) {
    Alarm* alarm = heap_[place];
    while (place > 0) {
      const std::size_t parent = (place - 1) / 2;
      if (heap_[parent]->deadline <= alarm->deadline) break;
      put(heap_[parent], place);
      place = parent;
    }
    put(alarm, place);
  }
  void sift_down(std::size_t place) {
    Alarm* alarm = heap_[place];
    for (;;) {
      std::size_t child = 2 * place + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1]->deadline < heap_[child]->deadline) ++child;
      if (alarm->deadline <= heap_[child]->deadline) break;
      put(heap_[child], place);
      place = child;
    }
    put(alarm, place);
  }

  std::vector<Alarm*> heap_;
};

}  // namespace blockbed
