// WriteBehind: what a job writes begins to go to the disk while the job writes on.
//
// Problem: a job that has written much makes it durable at its end. When all of it still lies in
// the host's cache then, that takes as long as the job, and guests that write to the same disk wait
// with it. A flush now and then would make others wait that write to the same file system: it
// commits the journal.
//
// Contract: wrote() counts, and each kEvery bytes tells the image to expect a flush, unless it is
// still busy with the last time. Nothing is durable by it; the flush at the end tells what failed.
// The owner waits for wait_idle() before it lets go of the image, and dies after it.
// Units: bytes. Threading: engine thread only.
#pragma once

#include <cstdint>

#include "block/graph/node.h"
#include "block/runtime/gate.h"

namespace blockbed {

class WriteBehind {
 public:
  // So little that guests do not feel it.
  static constexpr uint64_t kEvery = uint64_t{16} << 20;

  explicit WriteBehind(Executor& executor) : at_work_(executor) {}

  void wrote(Node& image, uint64_t bytes) {
    untold_ += bytes;
    if (untold_ < kEvery || at_work_.inside() > 0) return;
    untold_ = 0;
    at_work_.spawn(image.expect_flush());
  }
  Task<void> wait_idle() { return at_work_.wait_idle(); }

 private:
  uint64_t untold_ = 0;
  Gate at_work_;
};

}  // namespace blockbed
