// StreamWalk: brings what lies between the top of a chain and its base up into the top.
//
// Problem: every range of the chain must be looked at, and those of which a layer in the middle
// holds the data copied up, several at a time, while guests go on writing; what was done must be
// told in order, and a part that failed must be tried again or left out.
//
// Contract
//  - Copying is reading through a copy-on-read filter, which looks again whether the top has the
//  bytes by now: what this walk knows of the chain may be old, a guest's write always wins.
//  - run() returns when all is done, when it was stopped, or after a failure; never with a copy in
//  flight. It may be called again and goes on where it was.
//  - After a failure, failure() is the first part that failed. It is tried again by the next run()
//  unless leave_out() was called.
//  - Progress counts up to the first byte that is neither brought up nor left out.
//  - Nothing is durable by it. It does not begin to write out what it has brought up either: while
//  the kernel finds places for that, guests who write to the same file wait, and longer in all than
//  for the flush at the end.
// Units: bytes. Errors: errno of the chain. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "block/filters/progress.h"
#include "block/filters/rate_limit.h"
#include "block/filters/write_behind.h"
#include "block/graph/backend.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"

namespace blockbed {

class StreamWalk {
 public:
  // What is copied, told and failed at once: QEMU's, and visible in what a stopped job shows.
  static constexpr uint64_t kChunk = uint64_t{512} << 10;
  // Copies under way. More gain next to nothing (1 GiB without the host's cache: 1.37 s, with 2 or
  // 4 of them 1.27 s; with the cache nothing), and guests wait for them: the kernel lets one writer
  // at a time into the file.
  static constexpr std::size_t kMaxWindow = 1;

  // `top` and `bottom` are images, no filters; what lies between them is brought up, bottom
  // included. `through` reads through the filter. All outlive the walk.
  StreamWalk(Env& env, Backend& through, Node& top, Node& bottom, Progress& progress);
  ~StreamWalk();
  StreamWalk(const StreamWalk&) = delete;
  StreamWalk& operator=(const StreamWalk&) = delete;

  Task<void> run(RateLimit& rate_limit);
  bool complete() const { return next_ == length_ && window_.empty(); }
  std::optional<Errno> failure() const;
  void leave_out();

  // Ends run() after what is in flight.
  void stop() {
    stopped_ = true;
    kick();
  }
  // Looks at the rate limit again.
  void kick();

 private:
  // One part on its way up, from the first look at it on.
  struct Chunk {
    uint64_t begin;
    uint64_t end;
    // Nothing of the chain is there: what was read as zeroes must go on to be.
    bool beyond_end = false;
    // It could not be looked at.
    bool unseen = false;
    // It has been charged: to try it again costs nothing.
    bool paid = false;
    enum class State { kNew, kInFlight, kFailed, kDone } state = State::kNew;
    std::optional<Errno> error;
  };

  Task<Result<void>> look_up();
  Task<void> step(RateLimit& rate_limit);
  Task<void> wait_for_rate(int64_t delay);
  Task<void> copy(Chunk& chunk);
  Chunk* first(Chunk::State state);
  void forget_done();

  Env& env_;
  Backend& through_;
  Node& top_;
  Node& bottom_;
  Progress& progress_;
  const uint64_t length_;

  // Everything before has been looked at.
  uint64_t next_ = 0;
  // Up to where, from next_ on, it is known what there is.
  uint64_t known_end_ = 0;
  enum class Known { kNothing, kData, kBeyondEnd } known_ = Known::kNothing;
  // In order; the first one is not done. References stay while chunks come and go at the ends.
  std::deque<Chunk> window_;
  std::size_t in_flight_ = 0;
  bool running_ = false;
  bool stopped_ = false;
  // Nobody wants the bytes that are read: all copies may share one place for them.
  Buffer unwanted_;
  std::unique_ptr<Timer> timer_;
  WaitQueue wake_;
  Gate copies_;
  WriteBehind written_behind_;
};

}  // namespace blockbed
