// Signals as calls on the engine's thread.
//
// Problem: a signal handler may do next to nothing. Ours notes the signal and wakes the loop, which
// calls back.
//
// Contract: one object at a time in a process, made by the first on_signal(). Callbacks run in
// turn(), on the engine's thread. The handlers that stood before are put back at the end.
// Threading: engine thread only; workers block all signals (worker_pool.h).
#pragma once

#include <sys/types.h>

#include <csignal>
#include <functional>
#include <map>

#include "block/runtime/event_loop.h"

namespace blockbed {

// Who sent the signal that was noted last of its kind; 0 when that was the kernel.
pid_t sender_of_signal(int signal);

class Signals final : private EventLoop::Hook {
 public:
  explicit Signals(EventLoop& loop);
  ~Signals();

  void set(int signal, std::function<void()> callback);

 private:
  struct Entry {
    std::function<void()> callback;
    struct sigaction before;
  };

  void turn() override;

  EventLoop& loop_;
  std::map<int, Entry> entries_;
};

}  // namespace blockbed
