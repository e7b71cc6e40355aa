#include "qmp/monitor/dispatcher.h"

#include <utility>

namespace blockbed {

void Dispatcher::start() { gate_.spawn(run()); }

void Dispatcher::submit(Job job) {
  if (stopping_) return;
  waiting_.push_back(std::move(job));
  wake_.wake_all();
}

Task<void> Dispatcher::stop() {
  stopping_ = true;
  waiting_.clear();
  wake_.wake_all();
  co_await gate_.close();
}

Task<void> Dispatcher::run() {
  while (!stopping_) {
    if (waiting_.empty()) {
      co_await wake_.wait();
      continue;
    }
    // The job stays alive until its task has ended: the task may refer to what it captured.
    const Job job = std::move(waiting_.front());
    waiting_.pop_front();
    co_await job();
  }
}

}  // namespace blockbed
