#include "block/runtime/event_loop.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/frame_pool.h"

namespace blockbed {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kFirstReady = 256;

// Gives Asio's operations the memory that coroutine frames recycle.
template <class T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class U>
  PoolAllocator(const PoolAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(frame_pool::allocate(n * sizeof(T))); }
  void deallocate(T* block, std::size_t n) { frame_pool::release(block, n * sizeof(T)); }
  template <class U>
  bool operator==(const PoolAllocator<U>&) const {
    return true;
  }
};

using Clock = std::chrono::steady_clock;

}  // namespace

struct EventLoop::Reactor {
  asio::io_context context{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, asio::io_context::executor_type>
      alarm{context};
  // The deadline that `alarm` is set to, as long as its wait is outstanding.
  int64_t alarm_deadline = INT64_MAX;
  std::unique_ptr<DescriptorWatch> wake_watch;

  void set_alarm(int64_t deadline);
};

// Outlives its watch until the reactor has handed back every operation.
struct DescriptorWatch::State {
  EventLoop& loop;
  asio::posix::basic_stream_descriptor<asio::io_context::executor_type> descriptor;
  bool abandoned = false;

  struct SideState {
    std::coroutine_handle<> waiter = {};
    bool outstanding = false;
    bool cancelled = false;
  };
  std::array<SideState, 2> sides;

  State(EventLoop& l, int d) : loop(l), descriptor(l.reactor_->context) {
    boost::system::error_code error;
    descriptor.assign(d, error);
    BB_ASSERT(!error);
  }

  bool outstanding() const { return sides[0].outstanding || sides[1].outstanding; }
  void completed(Side side) {
    SideState& s = sides[side];
    s.outstanding = false;
    if (abandoned) {
      if (!outstanding()) delete this;
      return;
    }
    if (s.waiter) {
      s.cancelled = false;
      loop.post(std::exchange(s.waiter, {}));
    }
  }

  // Any outcome is "try your system call": it knows the error.
  struct Handler {
    State* state;
    Side side;
    using allocator_type = PoolAllocator<void>;
    allocator_type get_allocator() const { return {}; }
    void operator()(const boost::system::error_code&) const { state->completed(side); }
  };
};

void EventLoop::Reactor::set_alarm(int64_t deadline) {
  // An alarm that rings too early costs a turn; moving it costs a system call.
  if (alarm_deadline <= deadline) return;
  struct Handler {
    Reactor* reactor;
    using allocator_type = PoolAllocator<void>;
    allocator_type get_allocator() const { return {}; }
    void operator()(const boost::system::error_code& error) const {
      if (!error) reactor->alarm_deadline = INT64_MAX;
    }
  };
  alarm.expires_at(Clock::time_point(std::chrono::nanoseconds(deadline)));
  alarm_deadline = deadline;
  alarm.async_wait(Handler{this});
}

EventLoop::EventLoop() : ready_(kFirstReady), reactor_(std::make_unique<Reactor>()) {
  wake_descriptor_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  BB_ASSERT(wake_descriptor_ >= 0);
}

EventLoop::~EventLoop() {
  BB_ASSERT(alarms_.empty());
  BB_ASSERT(hooks_.empty());
  reactor_->wake_watch.reset();
  // Cancelled operations come back, so that what they refer to is freed.
  reactor_->alarm.cancel();
  reactor_->context.poll();
  ::close(wake_descriptor_);
}

int64_t EventLoop::now() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void EventLoop::grow() {
  std::vector<std::coroutine_handle<>> bigger(ready_.size() * 2);
  for (std::size_t i = 0; i < ready_count_; ++i) {
    bigger[i] = ready_[(ready_first_ + i) & (ready_.size() - 1)];
  }
  ready_ = std::move(bigger);
  ready_first_ = 0;
}

void EventLoop::run_ready(const bool& done) {
  if (ready_count_ == 0) return;
  const int64_t end = now() + kTurnTime;
  for (int i = 0; i < kTurn && ready_count_ > 0 && !done; ++i) {
    const std::coroutine_handle<> coroutine = ready_[ready_first_];
    ready_first_ = (ready_first_ + 1) & (ready_.size() - 1);
    --ready_count_;
    coroutine.resume();
    if (now() > end) break;
  }
}

void EventLoop::look_around() {
  for (Hook* hook : hooks_) hook->turn();
  take_completions();
  if (!alarms_.empty()) expire_alarms();
}

void EventLoop::run_until(const bool& done) {
  while (!done) {
    run_ready(done);
    if (done) break;
    // A hook may be a signal's callback that stops the loop.
    look_around();
    if (done) break;
    if (ready_count_ == 0) {
      block();
    } else {
      reactor_->context.poll();
    }
  }
}

void EventLoop::block() {
  if (!reactor_->wake_watch) {
    reactor_->wake_watch = std::make_unique<DescriptorWatch>(*this, wake_descriptor_);
    reactor_->wake_watch->wake_when_readable();
  }
  if (!alarms_.empty()) reactor_->set_alarm(alarms_.earliest());
  const int64_t start = now();
  if (poll_window_.length() == 0 || !poll_until(start + poll_window_.length())) sleep();
  poll_window_.waited(now() - start);
  DescriptorWatch::State& watch = *reactor_->wake_watch->state_;
  if (!watch.sides[DescriptorWatch::kRead].outstanding) {
    uint64_t count;
    [[maybe_unused]] const ssize_t taken = ::read(wake_descriptor_, &count, sizeof count);
    reactor_->wake_watch->wake_when_readable();
  }
  take_completions();
  if (!alarms_.empty()) expire_alarms();
}

bool EventLoop::poll_until(int64_t end) {
  do {
    if (completions_.load(std::memory_order_relaxed) != nullptr) return true;
    if (reactor_->context.poll_one() > 0) return true;
    // Whom we wait for may need this processor.
    ::sched_yield();
  } while (now() < end);
  return false;
}

void EventLoop::sleep() {
  asleep_.store(true);
  // A completion that came before the line above did not wake us.
  if (completions_.load() == nullptr) reactor_->context.run_one();
  asleep_.store(false, std::memory_order_relaxed);
}

void EventLoop::complete(Completion& completion) {
  Completion* head = completions_.load(std::memory_order_relaxed);
  do {
    completion.next_completion = head;
  } while (!completions_.compare_exchange_weak(head, &completion));
  if (asleep_.exchange(false)) wake();
}

void EventLoop::wake() {
  const int saved = errno;
  const uint64_t one = 1;
  // A counter that is full is a wake that is already on its way.
  [[maybe_unused]] const ssize_t written = ::write(wake_descriptor_, &one, sizeof one);
  errno = saved;
}

bool EventLoop::take_completions() {
  if (completions_.load(std::memory_order_relaxed) == nullptr) return false;
  Completion* newest = completions_.exchange(nullptr, std::memory_order_acquire);
  Completion* oldest = nullptr;
  while (newest != nullptr) {
    Completion* next = newest->next_completion;
    newest->next_completion = oldest;
    oldest = newest;
    newest = next;
  }
  for (Completion* c = oldest; c != nullptr;) {
    Completion* next = c->next_completion;
    post(c->coroutine);
    c = next;
  }
  return true;
}

void EventLoop::add_hook(Hook& hook) { hooks_.push_back(&hook); }
void EventLoop::remove_hook(Hook& hook) { std::erase(hooks_, &hook); }

void EventLoop::expire_alarms() {
  const int64_t time = now();
  while (Alarm* alarm = alarms_.pop_due(time)) post(alarm->waiter);
}

DescriptorWatch::DescriptorWatch(EventLoop& loop, int descriptor)
    : loop_(loop), descriptor_(descriptor) {}

DescriptorWatch::~DescriptorWatch() { forget(); }

void DescriptorWatch::forget() {
  if (state_ == nullptr) return;
  for (const State::SideState& side : state_->sides) BB_ASSERT(!side.waiter);
  state_->descriptor.release();
  state_->abandoned = true;
  if (!state_->outstanding()) delete state_;
  state_ = nullptr;
}

void DescriptorWatch::wait(Side side, std::coroutine_handle<> waiter) {
  if (state_ == nullptr) state_ = new State(loop_, descriptor_);
  State::SideState& s = state_->sides[side];
  BB_ASSERT(!s.waiter);
  s.waiter = waiter;
  s.cancelled = false;
  if (s.outstanding) return;
  s.outstanding = true;
  using Descriptor = asio::posix::descriptor_base;
  state_->descriptor.async_wait(side == kRead ? Descriptor::wait_read : Descriptor::wait_write,
                                State::Handler{state_, side});
}

bool DescriptorWatch::take_outcome(Side side) {
  return state_ != nullptr && !state_->sides[side].cancelled;
}

void DescriptorWatch::cancel() {
  if (state_ == nullptr) return;
  bool waited = false;
  for (State::SideState& s : state_->sides) {
    if (!s.waiter) continue;
    waited = true;
    s.cancelled = true;
    loop_.post(std::exchange(s.waiter, {}));
  }
  if (waited) state_->descriptor.cancel();
}

}  // namespace blockbed
