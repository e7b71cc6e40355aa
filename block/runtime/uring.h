// Ring: reads, writes and flushes through io_uring.
//
// Problem: O_DIRECT requests and pages that are not in memory wait for a device; the kernel can do
// that waiting without a thread of ours.
//
// Contract
//  - `co_await ring.readv(...)` and its siblings resume with what the system call would return: a
//    count, or a negative errno. `ranges` and the memory they name live until then.
//  - Requests are queued and handed to the kernel together, once a turn of the loop: this is what
//    makes a depth of 16 cost one system call and not 16.
//  - create() is null where the kernel or a filter refuses io_uring: the caller then uses the
//    worker pool.
// Threading: engine thread only.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <memory>
#include <span>

#include "block/runtime/event_loop.h"

namespace blockbed {

class Ring final : private EventLoop::Hook {
 public:
  // Requests beyond this are submitted in several batches; it is not a bound on how many wait.
  static constexpr unsigned kEntries = 128;

  static std::unique_ptr<Ring> create(EventLoop& loop);
  ~Ring();

  struct Request {
    Ring& ring;
    enum class Kind : uint8_t { kRead, kWrite, kDataSync } kind;
    int descriptor;
    const iovec* ranges;
    unsigned count;
    uint64_t offset;
    int result = 0;
    std::coroutine_handle<> waiter = {};
    Request* next = nullptr;

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> coroutine) {
      waiter = coroutine;
      ring.queue(*this);
    }
    int await_resume() const noexcept { return result; }
  };

  Request readv(int descriptor, std::span<const iovec> ranges, uint64_t offset) {
    return {*this,
            Request::Kind::kRead,
            descriptor,
            ranges.data(),
            static_cast<unsigned>(ranges.size()),
            offset};
  }
  Request writev(int descriptor, std::span<const iovec> ranges, uint64_t offset) {
    return {*this,
            Request::Kind::kWrite,
            descriptor,
            ranges.data(),
            static_cast<unsigned>(ranges.size()),
            offset};
  }
  Request data_sync(int descriptor) {
    return {*this, Request::Kind::kDataSync, descriptor, nullptr, 0, 0};
  }

 private:
  struct Kernel;

  Ring(EventLoop& loop, std::unique_ptr<Kernel> kernel);
  void queue(Request& request);
  void turn() override;
  void prepare(Request& request);
  void reap();

  EventLoop& loop_;
  std::unique_ptr<Kernel> kernel_;
  DescriptorWatch watch_;
  // Requests that found the submission queue full.
  Request* first_ = nullptr;
  Request* last_ = nullptr;
  // Prepared and not yet submitted; submitted and not yet completed.
  unsigned prepared_ = 0;
  unsigned in_flight_ = 0;
};

}  // namespace blockbed
