// EventLoop: the production executor, the clock's alarms and the waits for descriptors.
//
// Problem: the engine is one thread that must sleep when nothing is ready, wake for a socket, a
// point in time, a worker or a signal, and otherwise spend its time in coroutines and not in
// bookkeeping.
//
// Contract
//  - Ready coroutines stand in one FIFO and are resumed one after the other by run_until(). After
//    kTurn of them or kTurnTime, or when none is left, the loop looks at the rest of the world:
//    completions of workers, alarms that are due, the hook's completions, descriptors. It blocks
//    only when all of these have nothing.
//  - A wait is spent looking, not sleeping, as long as the waits of late were short (PollWindow):
//    to be woken costs more than what a client that answers at once takes to do so. A loop whose
//    waits are long sleeps at once.
//  - An Alarm, a Completion and what a wait needs live in the frame of the coroutine that waits:
//    nothing is allocated for them.
//  - DescriptorWatch never reads or writes; who waits tries its system call first, waits after
//    EAGAIN, and tries again. A wake may be spurious.
//  - No thread is started and no descriptor watched until somebody asks.
// Units: nanoseconds of CLOCK_MONOTONIC. Threading: engine thread only, but for complete() (any
// thread) and wake() (any thread and signal handlers).
//
// Boost.Asio is the reactor inside and is seen by event_loop.cpp only. Its io_context is built
// without locks, since only this thread touches it; workers reach us through one eventfd.
#pragma once

#include <algorithm>
#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "block/runtime/alarm_heap.h"
#include "block/runtime/executor.h"

namespace blockbed {

// PollWindow: for how long the next wait looks before it sleeps, learned from how long waits took.
// It doubles while waits end within kLongest but outlast it, and closes with the first longer wait.
// (The rule of QEMU's poll-max-ns, poll-grow and poll-shrink.)
class PollWindow {
 public:
  static constexpr int64_t kShortest = 4'000;
  static constexpr int64_t kLongest = 50'000;

  int64_t length() const { return length_; }
  void waited(int64_t time) {
    if (time > kLongest) {
      length_ = 0;
    } else if (time > length_) {
      length_ = std::clamp(2 * length_, kShortest, kLongest);
    }
  }

 private:
  int64_t length_ = 0;
};

class EventLoop final : public Executor {
 public:
  EventLoop();
  ~EventLoop() override;
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void post(std::coroutine_handle<> coroutine) override {
    if (ready_count_ == ready_.size()) grow();
    ready_[(ready_first_ + ready_count_++) & (ready_.size() - 1)] = coroutine;
  }

  static int64_t now();

  void run_until(const bool& done);

  // By the clock of now(): the waiter of one that is due is posted, with `fired` set.
  AlarmHeap& alarms() { return alarms_; }

  struct Completion {
    Completion* next_completion = nullptr;
    std::coroutine_handle<> coroutine = {};
  };
  // From any thread: the coroutine is posted on the engine's thread. `completion` lives until then.
  void complete(Completion& completion);
  // From anywhere, signal handlers too: the loop looks around soon.
  void wake();

  // Something that wants a word before the loop sleeps.
  class Hook {
   public:
    // Hands over what was queued and posts what has completed. Never blocks.
    virtual void turn() = 0;

   protected:
    ~Hook() = default;
  };
  // At most kMaxHooks; a hook unregisters itself before it dies.
  void add_hook(Hook& hook);
  void remove_hook(Hook& hook);

 private:
  friend class DescriptorWatch;
  struct Reactor;

  // Bound how long descriptors wait while coroutines keep each other busy. Some of them copy
  // hundreds of KiB at a time.
  static constexpr int kTurn = 128;
  static constexpr int64_t kTurnTime = 100'000;

  void grow();
  void run_ready(const bool& done);
  void look_around();
  bool take_completions();
  void expire_alarms();
  void block();
  // False when nothing has come until `end`.
  bool poll_until(int64_t end);
  void sleep();

  std::vector<std::coroutine_handle<>> ready_;
  std::size_t ready_first_ = 0;
  std::size_t ready_count_ = 0;

  AlarmHeap alarms_;
  std::vector<Hook*> hooks_;

  std::atomic<Completion*> completions_ = nullptr;
  std::atomic<bool> asleep_ = false;
  int wake_descriptor_ = -1;
  PollWindow poll_window_;

  std::unique_ptr<Reactor> reactor_;
};

// Waits until a descriptor can be read or written. Does not own the descriptor, and dies before it
// is closed. One waiter a side.
class DescriptorWatch {
 public:
  DescriptorWatch(EventLoop& loop, int descriptor);
  ~DescriptorWatch();
  DescriptorWatch(const DescriptorWatch&) = delete;
  DescriptorWatch& operator=(const DescriptorWatch&) = delete;

  // `bool go_on = co_await watch.readable()`: false when cancel() ended the wait.
  auto readable() { return Awaiter{*this, kRead}; }
  auto writable() { return Awaiter{*this, kWrite}; }
  // Makes the loop turn once when the descriptor can be read; nobody is resumed.
  void wake_when_readable() { wait(kRead, {}); }
  // Ends the waits of now; a later wait waits again.
  void cancel();
  // Before the descriptor is closed while the watch lives on: nobody may wait now or later.
  void forget();

 private:
  friend class EventLoop;
  enum Side { kRead = 0, kWrite = 1 };
  struct State;

  struct Awaiter {
    DescriptorWatch& watch;
    Side side;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) const { watch.wait(side, waiter); }
    bool await_resume() const { return watch.take_outcome(side); }
  };

  void wait(Side side, std::coroutine_handle<> waiter);
  bool take_outcome(Side side);

  EventLoop& loop_;
  const int descriptor_;
  // Made by the first wait: a descriptor that never needs one is never registered.
  State* state_ = nullptr;
};

}  // namespace blockbed
