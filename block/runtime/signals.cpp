#include "block/runtime/signals.h"

#include <atomic>

#include "block/runtime/assert.h"

namespace blockbed {

namespace {

// All that a handler touches. Signals above 63 are real-time signals that nobody sends us.
constexpr int kMaxSignal = 63;
std::atomic<uint64_t> pending = 0;
std::atomic<EventLoop*> target = nullptr;
std::atomic<pid_t> senders[kMaxSignal + 1];
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::atomic<pid_t>::is_always_lock_free);

void handle(int signal, siginfo_t* info, void*) {
  senders[signal].store(info->si_pid);
  pending.fetch_or(uint64_t{1} << signal);
  if (EventLoop* loop = target.load()) loop->wake();
}

}  // namespace

pid_t sender_of_signal(int signal) {
  BB_ASSERT(signal > 0 && signal <= kMaxSignal);
  return senders[signal].load();
}

Signals::Signals(EventLoop& loop) : loop_(loop) {
  BB_ASSERT(target.load() == nullptr);
  target.store(&loop);
  loop_.add_hook(*this);
}

Signals::~Signals() {
  for (auto& [signal, entry] : entries_) ::sigaction(signal, &entry.before, nullptr);
  loop_.remove_hook(*this);
  target.store(nullptr);
  pending.store(0);
}

void Signals::set(int signal, std::function<void()> callback) {
  BB_ASSERT(signal > 0 && signal <= kMaxSignal);
  const auto found = entries_.find(signal);
  if (!callback) {
    if (found == entries_.end()) return;
    ::signal(signal, SIG_DFL);
    entries_.erase(found);
    return;
  }
  if (found != entries_.end()) {
    found->second.callback = std::move(callback);
    return;
  }
  Entry& entry = entries_[signal];
  entry.callback = std::move(callback);
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  BB_ASSERT(::sigaction(signal, &action, &entry.before) == 0);
}

void Signals::turn() {
  uint64_t seen = pending.load(std::memory_order_relaxed);
  if (seen == 0) return;
  seen = pending.exchange(0);
  for (int signal = 1; signal <= kMaxSignal; ++signal) {
    if ((seen >> signal & 1) == 0) continue;
    const auto found = entries_.find(signal);
    if (found == entries_.end()) continue;
    // A copy: the callback may replace itself.
    const std::function<void()> callback = found->second.callback;
    callback();
  }
}

}  // namespace blockbed
