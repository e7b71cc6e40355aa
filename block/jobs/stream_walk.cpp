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
      wake_(env.executor()),
      copies_(env.executor()),
      written_behind_(env.executor()) {
  progress_ = Progress{.done = 0, .remaining = length_};
}

StreamWalk::~StreamWalk() { BB_ASSERT(in_flight_ == 0); }

void StreamWalk::kick() {
  if (timer_ != nullptr) timer_->cancel();
  wake_.wake_all();
}

StreamWalk::Chunk* StreamWalk::first(Chunk::State state) {
  const auto found = std::ranges::find(window_, state, &Chunk::state);
  return found == window_.end() ? nullptr : &*found;
}

std::optional<Errno> StreamWalk::failure() const {
  const auto found = std::ranges::find(window_, Chunk::State::kFailed, &Chunk::state);
  return found == window_.end() ? std::nullopt : found->error;
}

void StreamWalk::leave_out() {
  Chunk* failed = first(Chunk::State::kFailed);
  BB_ASSERT(failed != nullptr);
  failed->state = Chunk::State::kDone;
  forget_done();
}

void StreamWalk::forget_done() {
  while (!window_.empty() && window_.front().state == Chunk::State::kDone) window_.pop_front();
  const uint64_t done = window_.empty() ? next_ : window_.front().begin;
  progress_ = Progress{.done = done, .remaining = length_ - done};
}

// --- what is there

Task<Result<void>> StreamWalk::look_up() {
  auto own = co_await chain_allocated(top_, &top_, /*include_base=*/true, next_, length_ - next_);
  if (!own) co_return io_error(own.error());
  known_ = Known::kNothing;
  known_end_ = std::min(next_ + own->length, length_);
  Node* below = top_.backing_node();
  if (own->allocated || below == nullptr) co_return Result<void>();

  auto answer = co_await chain_content(*below, &bottom_, next_, own->length);
  if (!answer) co_return io_error(answer.error());
  if (answer->length > 0) {
    known_end_ = std::min(next_ + answer->length, length_);
    if (answer->allocated) known_ = Known::kData;
  } else if (bottom_.backing_node() != nullptr) {
    // The image below the top ends here. Without it, the base would show.
    known_ = Known::kBeyondEnd;
  }
  co_return Result<void>();
}

// --- copying

Task<void> StreamWalk::copy(Chunk& chunk) {
  chunk.state = Chunk::State::kInFlight;
  ++in_flight_;
  RequestFlags flags;
  flags.copy_on_read = true;
  flags.prefetch = true;
  IoVector unwanted = unwanted_.io(0, chunk.end - chunk.begin);
  // The filter looks at the chain, and would find nothing to keep beyond its end.
  const Result<void> copied = chunk.beyond_end
                                  ? co_await top_.read(chunk.begin, std::move(unwanted), flags)
                                  : co_await through_.read(chunk.begin, std::move(unwanted), flags);
  --in_flight_;
  chunk.state = copied ? Chunk::State::kDone : Chunk::State::kFailed;
  if (!copied) chunk.error = copied.error();
  if (copied) written_behind_.wrote(top_, chunk.end - chunk.begin);
  forget_done();
  if (copied) {
    wake_.wake_all();
  } else {
    // Who waits for the rate hears of a failure at once.
    kick();
  }
}

Task<void> StreamWalk::wait_for_rate(int64_t delay) {
  if (timer_ == nullptr) timer_ = env_.make_timer();
  co_await timer_->wait_until(env_.now() + delay);
}

Task<void> StreamWalk::step(RateLimit& rate_limit) {
  Chunk* const again = first(Chunk::State::kNew);
  if (again == nullptr && (next_ == length_ || window_.size() >= kMaxWindow)) {
    co_await wake_.wait();
    co_return;
  }
  const bool paid = again != nullptr && again->paid;
  // What was copied is paid off before anybody looks at the rest, where nothing may be to be done.
  if (const int64_t delay = paid ? 0 : rate_limit.delay(env_.now()); delay > 0) {
    co_await wait_for_rate(delay);
    co_return;
  }
  if (again != nullptr) {
    if (!paid) rate_limit.account(again->end - again->begin, env_.now());
    again->paid = true;
    copies_.spawn(copy(*again));
    co_return;
  }
  if (next_ >= known_end_) {
    if (const Result<void> found = co_await look_up(); !found) {
      window_.push_back({.begin = next_,
                         .end = std::min(next_ + kChunk, length_),
                         .unseen = true,
                         .state = Chunk::State::kFailed,
                         .error = found.error()});
      next_ = window_.back().end;
      co_return;
    }
  }
  if (known_ == Known::kNothing) {
    next_ = known_end_;
    forget_done();
    co_return;
  }
  const uint64_t begin = std::exchange(next_, std::min(next_ + kChunk, known_end_));
  window_.push_back(
      {.begin = begin, .end = next_, .beyond_end = known_ == Known::kBeyondEnd, .error = {}});
}

Task<void> StreamWalk::run(RateLimit& rate_limit) {
  BB_ASSERT(!running_);
  running_ = true;
  stopped_ = false;
  if (unwanted_.empty()) unwanted_ = Buffer(std::min(kChunk, length_));
  if (!window_.empty() && window_.back().unseen && window_.back().state == Chunk::State::kFailed) {
    next_ = known_end_ = window_.back().begin;
    window_.pop_back();
  }
  for (Chunk& chunk : window_) {
    if (chunk.state == Chunk::State::kFailed) chunk.state = Chunk::State::kNew;
  }
  for (int steps = 1; !stopped_ && !complete() && !failure(); ++steps) {
    co_await step(rate_limit);
    if (steps % kStepsPerTurn == 0) co_await env_.executor().yield();
  }
  while (in_flight_ > 0) co_await wake_.wait();
  co_await copies_.wait_idle();
  co_await written_behind_.wait_idle();
  running_ = false;
}

}  // namespace blockbed
