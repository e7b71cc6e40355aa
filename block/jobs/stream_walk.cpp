#include "block/jobs/stream_walk.h"

#include <algorithm>

#include "block/graph/chain.h"

namespace blockbed {

namespace {

// When nothing ever has to wait, the walk gives everybody else a turn this often.
constexpr int kStepsPerTurn = 16;

}  // namespace

StreamWalk::StreamWalk(Env& env, Backend& through, Node& top, Node& bottom, Progress& progress)
    : env_(env),
      through_(through),
      top_(top),
      bottom_(bottom),
      progress_(progress),
      length_(top.length()),
      written_behind_(env.executor()) {
  advance(0);
}

StreamWalk::~StreamWalk() { BB_ASSERT(!running_); }

void StreamWalk::kick() {
  if (timer_ != nullptr) timer_->cancel();
}

uint64_t StreamWalk::part_end() const {
  return std::min(next_ + kPart, next_ < known_end_ ? known_end_ : length_);
}

void StreamWalk::advance(uint64_t to) {
  next_ = to;
  paid_ = false;
  failure_.reset();
  progress_ = Progress{.done = next_, .remaining = length_ - next_};
}

void StreamWalk::leave_out() {
  BB_ASSERT(failure_);
  advance(part_end());
}

Task<Result<void>> StreamWalk::look_up() {
  auto own = co_await chain_allocated(top_, &top_, /*include_base=*/true, next_, length_ - next_);
  if (!own) co_return io_error(own.error());
  uint64_t known = own->length;
  known_ = Known::kNothing;
  if (Node* below = top_.backing_node(); below != nullptr && !own->allocated) {
    auto answer = co_await chain_content(*below, &bottom_, next_, own->length);
    if (!answer) co_return io_error(answer.error());
    if (answer->length > 0) {
      known = answer->length;
      if (answer->allocated) known_ = Known::kData;
    } else if (bottom_.backing_node() != nullptr) {
      // The image below the top ends here. Without it, the base would show.
      known_ = Known::kBeyondEnd;
    }
  }
  known_end_ = std::min(next_ + known, length_);
  co_return Result<void>();
}

Task<Result<void>> StreamWalk::copy() {
  RequestFlags flags;
  flags.copy_on_read = true;
  flags.prefetch = true;
  IoVector unwanted = unwanted_.io(0, part_end() - next_);
  // The filter looks at the chain, and would find nothing to keep beyond its end.
  if (known_ == Known::kBeyondEnd) co_return co_await top_.read(next_, std::move(unwanted), flags);
  co_return co_await through_.read(next_, std::move(unwanted), flags);
}

Task<void> StreamWalk::wait_for_rate(int64_t delay) {
  if (timer_ == nullptr) timer_ = env_.make_timer();
  co_await timer_->wait_until(env_.now() + delay);
}

Task<void> StreamWalk::step(RateLimit& rate_limit) {
  // What was copied is paid off before anybody looks at the rest, where nothing may be to be done.
  if (const int64_t delay = paid_ ? 0 : rate_limit.delay(env_.now()); delay > 0) {
    co_await wait_for_rate(delay);
    co_return;
  }
  if (next_ >= known_end_) {
    if (const Result<void> found = co_await look_up(); !found) failure_ = found.error();
    co_return;
  }
  if (known_ == Known::kNothing) {
    advance(known_end_);
    co_return;
  }
  const uint64_t end = part_end();
  if (!paid_) rate_limit.account(end - next_, env_.now());
  paid_ = true;
  if (const Result<void> copied = co_await copy(); !copied) {
    failure_ = copied.error();
    co_return;
  }
  written_behind_.wrote(top_, end - next_);
  advance(end);
}

Task<void> StreamWalk::run(RateLimit& rate_limit) {
  BB_ASSERT(!running_);
  running_ = true;
  stopped_ = false;
  failure_.reset();
  if (unwanted_.empty()) unwanted_ = Buffer(std::min(kPart, length_));
  for (int steps = 1; !stopped_ && !complete() && !failure_; ++steps) {
    co_await step(rate_limit);
    if (steps % kStepsPerTurn == 0) co_await env_.executor().yield();
  }
  co_await written_behind_.wait_idle();
  running_ = false;
}

}  // namespace blockbed
