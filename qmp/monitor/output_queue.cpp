#include "qmp/monitor/output_queue.h"

#include <span>

namespace blockbed {

void OutputQueue::append(std::string_view bytes) {
  queued_ += bytes;
  appended();
}

void OutputQueue::appended() {
  if (broken_ || finished_) {
    queued_.clear();
    return;
  }
  if (unsent() > kLimit) {
    overflowed_ = true;
    fail();
    return;
  }
  changed_.wake_all();
}

Task<void> OutputQueue::run(Stream& stream) {
  while (!broken_) {
    if (queued_.empty()) {
      if (finished_) break;
      co_await changed_.wait();
      continue;
    }
    std::swap(sending_, queued_);
    const auto sent =
        co_await stream.write_all(IoVector(std::as_bytes(std::span<const char>(sending_))));
    sending_.clear();
    if (!sent) fail();
    changed_.wake_all();
  }
}

void OutputQueue::finish() {
  finished_ = true;
  changed_.wake_all();
}

void OutputQueue::abandon() { fail(); }

void OutputQueue::fail() {
  broken_ = true;
  queued_.clear();
  changed_.wake_all();
}

Task<void> OutputQueue::wait_below_high_water() {
  while (!broken_ && unsent() > kHighWater) co_await changed_.wait();
}

Task<void> OutputQueue::wait_sent() {
  while (!broken_ && unsent() > 0) co_await changed_.wait();
}

}  // namespace blockbed
