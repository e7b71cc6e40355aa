// Waiting for each other: wait queues, events, mutexes, shared mutexes and semaphores for
// coroutines.
//
// Contract
//  - All wait in order of arrival, and a waiter that was woken is posted to the executor, not
//    resumed inside the waking call: code that wakes others goes on undisturbed.
//  - A lock that is free is taken without suspending. Fairness: ownership is handed to the first
//    waiter by unlock(), so a newcomer cannot overtake.
//  - None may die while somebody waits on it: asserted.
// Threading: engine thread only; these order coroutines, not threads.
#pragma once

#include <coroutine>
#include <cstddef>
#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/executor.h"

namespace blockbed {

// A list of suspended coroutines: the only primitive; everything below is made of it.
class WaitQueue {
 public:
  explicit WaitQueue(Executor& executor) : executor_(executor) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue() { BB_ASSERT(head_ == nullptr); }

  struct Awaiter;

  // `co_await queue.wait()`: until woken. The caller checks its condition again where wakes may be
  // for others.
  inline Awaiter wait();

  bool empty() const { return head_ == nullptr; }
  std::size_t front_weight() const { return head_->weight; }
  // False when nobody waits.
  bool wake_one() {
    if (head_ == nullptr) return false;
    Awaiter* first = head_;
    head_ = first->next;
    if (head_ == nullptr) tail_ = nullptr;
    executor_.post(first->coroutine);
    return true;
  }
  void wake_all() {
    while (wake_one()) {
    }
  }

  Executor& executor() const { return executor_; }

  struct Awaiter {
    WaitQueue& queue;
    // What the waiter asks for, to a lock that counts (units of a semaphore, mode of a shared
    // mutex).
    std::size_t weight;
    std::coroutine_handle<> coroutine = {};
    Awaiter* next = nullptr;

    explicit Awaiter(WaitQueue& q, std::size_t w = 0) : queue(q), weight(w) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiting) {
      coroutine = waiting;
      queue.executor_.waits(waiting);
      if (queue.tail_ == nullptr) {
        queue.head_ = this;
      } else {
        queue.tail_->next = this;
      }
      queue.tail_ = this;
    }
    void await_resume() const noexcept {}
  };

 private:
  Executor& executor_;
  Awaiter* head_ = nullptr;
  Awaiter* tail_ = nullptr;
};

inline WaitQueue::Awaiter WaitQueue::wait() { return Awaiter(*this); }

// A condition that, once set, lets everybody pass until it is reset.
class Event {
 public:
  explicit Event(Executor& executor) : waiters_(executor) {}

  bool is_set() const { return set_; }
  void set() {
    set_ = true;
    waiters_.wake_all();
  }
  void reset() { set_ = false; }

  // A waiter passes even when the event is reset between the wake and its turn.
  auto wait() {
    struct Awaiter : WaitQueue::Awaiter {
      bool ready;
      Awaiter(WaitQueue& q, bool r) : WaitQueue::Awaiter(q), ready(r) {}
      bool await_ready() const noexcept { return ready; }
    };
    return Awaiter(waiters_, set_);
  }

 private:
  WaitQueue waiters_;
  bool set_ = false;
};

class Mutex;

// Holds a Mutex until it dies or unlock() is called.
class [[nodiscard]] MutexGuard {
 public:
  MutexGuard() = default;
  explicit MutexGuard(Mutex& mutex) : mutex_(&mutex) {}
  MutexGuard(MutexGuard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
  MutexGuard& operator=(MutexGuard&& other) noexcept {
    if (this != &other) {
      unlock();
      mutex_ = std::exchange(other.mutex_, nullptr);
    }
    return *this;
  }
  ~MutexGuard() { unlock(); }
  inline void unlock();
  bool owns() const { return mutex_ != nullptr; }

 private:
  Mutex* mutex_ = nullptr;
};

class Mutex {
 public:
  explicit Mutex(Executor& executor) : waiters_(executor) {}
  ~Mutex() { BB_ASSERT(!locked_); }

  bool locked() const { return locked_; }

  // `MutexGuard guard = co_await mutex.lock();`
  auto lock() {
    struct Awaiter : WaitQueue::Awaiter {
      Mutex& mutex;
      explicit Awaiter(Mutex& m) : WaitQueue::Awaiter(m.waiters_), mutex(m) {}
      bool await_ready() const noexcept {
        if (mutex.locked_) return false;
        mutex.locked_ = true;
        return true;
      }
      MutexGuard await_resume() const noexcept { return MutexGuard(mutex); }
    };
    return Awaiter(*this);
  }

  // An owning guard, or an empty one when somebody else holds the mutex.
  MutexGuard try_lock() {
    if (locked_) return MutexGuard();
    locked_ = true;
    return MutexGuard(*this);
  }

 private:
  friend class MutexGuard;
  void unlock() {
    BB_ASSERT(locked_);
    if (!waiters_.wake_one()) locked_ = false;
  }

  WaitQueue waiters_;
  bool locked_ = false;
};

inline void MutexGuard::unlock() {
  if (mutex_ != nullptr) std::exchange(mutex_, nullptr)->unlock();
}

// Counts units of something bounded (requests in flight, bytes of buffers).
class Semaphore {
 public:
  Semaphore(Executor& executor, std::size_t units) : waiters_(executor), free_(units) {}

  std::size_t free_units() const { return free_; }

  // `co_await semaphore.acquire(n)`: n units, in order of arrival.
  auto acquire(std::size_t units = 1) {
    struct Awaiter : WaitQueue::Awaiter {
      Semaphore& semaphore;
      Awaiter(Semaphore& s, std::size_t n) : WaitQueue::Awaiter(s.waiters_, n), semaphore(s) {}
      bool await_ready() const noexcept {
        if (!semaphore.waiters_.empty() || semaphore.free_ < weight) return false;
        semaphore.free_ -= weight;
        return true;
      }
    };
    return Awaiter(*this, units);
  }

  void release(std::size_t units = 1) {
    free_ += units;
    while (!waiters_.empty() && waiters_.front_weight() <= free_) {
      free_ -= waiters_.front_weight();
      waiters_.wake_one();
    }
  }

 private:
  WaitQueue waiters_;
  std::size_t free_;
};

// Many shared holders or one exclusive holder, in order of arrival: a waiting writer holds back
// later readers.
class SharedMutex {
 public:
  explicit SharedMutex(Executor& executor) : waiters_(executor) {}
  ~SharedMutex() { BB_ASSERT(shared_ == 0 && !exclusive_); }

  auto lock_shared() { return Awaiter(*this, kShared); }
  auto lock() { return Awaiter(*this, kExclusive); }
  void unlock_shared() {
    BB_ASSERT(shared_ > 0);
    --shared_;
    admit();
  }
  void unlock() {
    BB_ASSERT(exclusive_);
    exclusive_ = false;
    admit();
  }

 private:
  static constexpr std::size_t kShared = 0;
  static constexpr std::size_t kExclusive = 1;

  struct Awaiter : WaitQueue::Awaiter {
    SharedMutex& mutex;
    Awaiter(SharedMutex& m, std::size_t mode) : WaitQueue::Awaiter(m.waiters_, mode), mutex(m) {}
    bool await_ready() const noexcept { return mutex.waiters_.empty() && mutex.take(weight); }
  };

  bool take(std::size_t mode) {
    if (exclusive_ || (mode == kExclusive && shared_ > 0)) return false;
    if (mode == kExclusive) {
      exclusive_ = true;
    } else {
      ++shared_;
    }
    return true;
  }
  void admit() {
    while (!waiters_.empty() && take(waiters_.front_weight())) waiters_.wake_one();
  }

  WaitQueue waiters_;
  std::size_t shared_ = 0;
  bool exclusive_ = false;
};

}  // namespace blockbed
