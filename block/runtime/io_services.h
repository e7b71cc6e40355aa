// IoServices: what the production File and Stream are made with.
//
// Contract: lives in the ProductionEnv and longer than every File and Stream. The ring is set up by
// the first request that wants it; null where io_uring is refused or switched off.
// Threading: engine thread only.
#pragma once

#include <memory>

#include "block/runtime/event_loop.h"
#include "block/runtime/uring.h"
#include "block/runtime/worker_pool.h"

namespace blockbed {

struct IoServices {
  EventLoop loop;
  WorkerPool pool;

  IoServices(unsigned max_workers, bool allow_ring,
             std::chrono::milliseconds worker_idle = WorkerPool::kIdle)
      : pool(loop, max_workers, worker_idle), ring_wanted_(allow_ring) {}

  Ring* ring() {
    if (ring_wanted_) {
      ring_ = Ring::create(loop);
      ring_wanted_ = false;
    }
    return ring_.get();
  }

 private:
  bool ring_wanted_;
  std::unique_ptr<Ring> ring_;
};

}  // namespace blockbed
