// StreamWalk: brings what lies between the top of a chain and its base up into the top.
//
// Problem: every range of the chain must be looked at, and those of which a layer in the middle
// holds the data copied up, while guests go on writing; what was done must be told, and a part that
// failed must be tried again or left out.
//
// Contract
//  - Copying is reading through a copy-on-read filter, which looks again whether the top has the
//    bytes by now: what this walk knows of the chain may be old, a guest's write always wins.
//  - One part after the other. Several at once gain next to nothing (1 GiB without the host's
//    cache: 1.37 s, with 2 or 4 of them 1.27 s; with the cache nothing), and guests wait for them:
//    the kernel lets one writer at a time into the file.
//  - run() returns when all is done, when it was stopped, or after a failure; never with a copy in
//    flight. It may be called again and goes on where it was.
//  - After a failure, failure() is that of the part that comes next. It is tried again by the next
//    run() unless leave_out() was called.
//  - Nothing is durable by it; what was brought up begins to go to the disk meanwhile
//    (write_behind.h).
// Units: bytes. Errors: errno of the chain. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "block/filters/progress.h"
#include "block/filters/rate_limit.h"
#include "block/filters/write_behind.h"
#include "block/graph/backend.h"
#include "block/runtime/env.h"

namespace blockbed {

class StreamWalk {
 public:
  // What is copied, told and failed at once: QEMU's, and visible in what a stopped job shows.
  static constexpr uint64_t kPart = uint64_t{512} << 10;

  // `top` and `bottom` are images, no filters; what lies between them is brought up, bottom
  // included. `through` reads through the filter. All outlive the walk.
  StreamWalk(Env& env, Backend& through, Node& top, Node& bottom, Progress& progress);
  ~StreamWalk();
  StreamWalk(const StreamWalk&) = delete;
  StreamWalk& operator=(const StreamWalk&) = delete;

  Task<void> run(RateLimit& rate_limit);
  bool complete() const { return next_ == length_; }
  std::optional<Errno> failure() const { return failure_; }
  void leave_out();

  // Ends run() after what is in flight.
  void stop() {
    stopped_ = true;
    kick();
  }
  // Looks at the rate limit again.
  void kick();

 private:
  Task<Result<void>> look_up();
  Task<Result<void>> copy();
  Task<void> step(RateLimit& rate_limit);
  Task<void> wait_for_rate(int64_t delay);
  uint64_t part_end() const;
  void advance(uint64_t to);

  Env& env_;
  Backend& through_;
  Node& top_;
  Node& bottom_;
  Progress& progress_;
  const uint64_t length_;

  // Everything before is brought up or left out.
  uint64_t next_ = 0;
  // Up to where, from next_ on, it is known what there is.
  uint64_t known_end_ = 0;
  // Beyond the end of what lies below the top, what was read as zeroes must go on to be.
  enum class Known { kNothing, kData, kBeyondEnd } known_ = Known::kNothing;
  // The part at next_ has been charged: to try it again costs nothing.
  bool paid_ = false;
  std::optional<Errno> failure_;
  bool running_ = false;
  bool stopped_ = false;
  // Nobody wants the bytes that are read.
  Buffer unwanted_;
  std::unique_ptr<Timer> timer_;
  WriteBehind written_behind_;
};

}  // namespace blockbed
