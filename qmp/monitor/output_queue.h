// The write side of one session.
//
// Problem: a client that does not read must hold up neither the engine nor other clients, nor make
// the server grow without bound; and events must not be lost silently. Contract
//  - append() never waits. The writer sends what is queued, in order, as fast as the peer takes it.
//  - Above kHighWater unsent bytes the session stops reading further commands
//    (wait_below_high_water), so what replies can add is bounded. Events still come: beyond kLimit
//    the session is given up (overflowed), because a monitor that has lost an event is of no use to
//    its client.
//  - After a failed write everything is dropped.
// Units: bytes. Threading: engine thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "block/runtime/executor.h"
#include "block/runtime/stream.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"

namespace blockbed {

class OutputQueue {
 public:
  // Twice the largest ordinary reply (query-qmp-schema has about 200 KiB).
  static constexpr std::size_t kHighWater = std::size_t{512} << 10;
  // Hundreds of thousands of events. QEMU has no bound here.
  static constexpr std::size_t kLimit = std::size_t{64} << 20;

  explicit OutputQueue(Executor& executor) : changed_(executor) {}

  void append(std::string_view bytes);
  // For a caller that writes into the queue directly; call appended() after it.
  std::string& buffer() { return queued_; }
  void appended();

  bool overflowed() const { return overflowed_; }
  bool broken() const { return broken_; }
  std::size_t unsent() const { return queued_.size() + sending_.size(); }

  // Sends until finish() was called and all is sent, or a write fails.
  Task<void> run(Stream& stream);
  // No more appends; run() ends when what is queued was sent.
  void finish();
  // Drops what is queued; run() ends after the write that is under way.
  void abandon();

  Task<void> wait_below_high_water();
  // Until all was sent or the peer is gone.
  Task<void> wait_sent();

 private:
  void fail();

  WaitQueue changed_;
  std::string queued_;
  std::string sending_;
  bool finished_ = false;
  bool broken_ = false;
  bool overflowed_ = false;
};

}  // namespace blockbed
