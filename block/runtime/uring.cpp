#include "block/runtime/uring.h"

#include <liburing.h>

#include <cerrno>

#include "block/runtime/assert.h"

namespace blockbed {

struct Ring::Kernel {
  io_uring ring;
  bool made = false;
  ~Kernel() {
    if (made) io_uring_queue_exit(&ring);
  }
};

std::unique_ptr<Ring> Ring::create(EventLoop& loop) {
  auto kernel = std::make_unique<Kernel>();
  // Completions are prepared when we enter the kernel anyway, instead of interrupting us. Kernels
  // before 6.0 do not know both flags.
  for (const unsigned flags : {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 0U}) {
    if (io_uring_queue_init(kEntries, &kernel->ring, flags) != 0) continue;
    kernel->made = true;
    // Without this an overflow of the completion queue would lose completions.
    if ((kernel->ring.features & IORING_FEAT_NODROP) == 0) return nullptr;
    return std::unique_ptr<Ring>(new Ring(loop, std::move(kernel)));
  }
  return nullptr;
}

Ring::Ring(EventLoop& loop, std::unique_ptr<Kernel> kernel)
    : loop_(loop), kernel_(std::move(kernel)), watch_(loop, kernel_->ring.ring_fd) {
  loop_.add_hook(*this);
}

Ring::~Ring() {
  BB_ASSERT(first_ == nullptr && prepared_ == 0 && in_flight_ == 0);
  loop_.remove_hook(*this);
}

void Ring::queue(Request& request) {
  if (first_ == nullptr && io_uring_sq_space_left(&kernel_->ring) > 0) return prepare(request);
  request.next = nullptr;
  (last_ == nullptr ? first_ : last_->next) = &request;
  last_ = &request;
}

void Ring::prepare(Request& request) {
  io_uring_sqe* entry = io_uring_get_sqe(&kernel_->ring);
  BB_ASSERT(entry != nullptr);
  switch (request.kind) {
    case Request::Kind::kRead:
      io_uring_prep_readv(entry, request.descriptor, request.ranges, request.count, request.offset);
      break;
    case Request::Kind::kWrite:
      io_uring_prep_writev(entry, request.descriptor, request.ranges, request.count,
                           request.offset);
      break;
    case Request::Kind::kDataSync:
      io_uring_prep_fsync(entry, request.descriptor, IORING_FSYNC_DATASYNC);
      break;
  }
  io_uring_sqe_set_data(entry, &request);
  ++prepared_;
}

void Ring::turn() {
  if (prepared_ == 0 && in_flight_ == 0) return;
  while (prepared_ > 0) {
    const int submitted = io_uring_submit(&kernel_->ring);
    if (submitted > 0) {
      prepared_ -= static_cast<unsigned>(submitted);
      in_flight_ += static_cast<unsigned>(submitted);
    } else if (submitted != -EINTR) {
      // The kernel is short of memory or wants its completions taken first: next turn again.
      BB_ASSERT(submitted == 0 || submitted == -EAGAIN || submitted == -EBUSY ||
                submitted == -ENOMEM);
      break;
    }
    while (first_ != nullptr && io_uring_sq_space_left(&kernel_->ring) > 0) {
      Request& request = *first_;
      first_ = request.next;
      if (first_ == nullptr) last_ = nullptr;
      prepare(request);
    }
  }
  if (prepared_ > 0) loop_.wake();
  reap();
  if (in_flight_ > 0) watch_.wake_when_readable();
}

void Ring::reap() {
  unsigned head;
  unsigned count = 0;
  io_uring_cqe* entry;
  io_uring_for_each_cqe(&kernel_->ring, head, entry) {
    auto& request = *static_cast<Request*>(io_uring_cqe_get_data(entry));
    request.result = entry->res;
    loop_.post(request.waiter);
    ++count;
  }
  if (count > 0) io_uring_cq_advance(&kernel_->ring, count);
  in_flight_ -= count;
  // Completions that did not fit are handed over by a call.
  if ((*kernel_->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW) != 0) io_uring_get_events(&kernel_->ring);
}

}  // namespace blockbed
