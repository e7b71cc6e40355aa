#include "block/filters/mirror_copy.h"

#include <algorithm>

#include "block/graph/chain.h"
#include "block/graph/node.h"

namespace blockbed {

namespace {

// When nothing ever has to wait, the pass gives everybody else a turn this often.
constexpr int kChunksPerTurn = 16;

// With a speed a copy is no larger than this part of it, so that the speed is even.
constexpr uint64_t kPiecesPerSecond = 10;

}  // namespace

class MirrorCopy::InFlight {
 public:
  InFlight(MirrorCopy& engine, const Extent& range, uint64_t counted)
      : range(range), waiters(engine.env_.executor()), engine_(engine), counted_(counted) {
    engine_.in_flight_bytes_ += counted_;
    next = engine_.in_flight_head_;
    if (next != nullptr) next->previous_ = this;
    engine_.in_flight_head_ = this;
  }
  ~InFlight() {
    engine_.in_flight_bytes_ -= counted_;
    if (previous_ != nullptr) {
      previous_->next = next;
    } else {
      engine_.in_flight_head_ = next;
    }
    if (next != nullptr) next->previous_ = previous_;
    waiters.wake_all();
    engine_.update_progress();
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  const Extent range;
  WaitQueue waiters;
  InFlight* next = nullptr;

 private:
  MirrorCopy& engine_;
  const uint64_t counted_;
  InFlight* previous_ = nullptr;
};

MirrorCopy::MirrorCopy(Env& env, Edge& source, Edge& target, uint64_t length, Settings settings)
    : env_(env),
      source_(source),
      target_(target),
      length_(length),
      settings_(settings),
      bitmap_(granules_to(length)),
      copies_(env.executor()),
      written_behind_(env.executor()) {}

MirrorCopy::~MirrorCopy() { BB_ASSERT(in_flight_head_ == nullptr); }

uint64_t MirrorCopy::remaining() const {
  uint64_t bytes = bitmap_.count() * settings_.granularity;
  if (bitmap_.size() > 0 && bitmap_.test(bitmap_.size() - 1)) {
    bytes -= bitmap_.size() * settings_.granularity - length_;
  }
  return bytes + in_flight_bytes_ + ahead_;
}

void MirrorCopy::set_progress(Progress* progress) {
  progress_ = progress;
  update_progress();
}

void MirrorCopy::set_ahead(uint64_t bytes) {
  ahead_ = bytes;
  update_progress();
}

void MirrorCopy::update_progress() {
  if (progress_ != nullptr) progress_->remaining = remaining();
}

// --- marks

void MirrorCopy::forget_known(uint64_t begin, uint64_t end) {
  if (known_.overlaps(begin, end)) known_ = Extent();
  if (asked_.overlaps(begin, end)) answer_is_stale_ = true;
}

void MirrorCopy::changed(uint64_t offset, uint64_t length) {
  const uint64_t end = std::min(offset + length, length_);
  if (offset >= end) return;
  forget_known(offset, end);
  bitmap_.set(granule_of(offset), granules_to(end));
  update_progress();
  if (on_dirty) on_dirty();
}

MirrorCopy::Extent MirrorCopy::whole_units(uint64_t offset, uint64_t length) const {
  Extent range{offset, std::min(offset + length, length_)};
  range.begin -= range.begin % settings_.unit;
  if (const uint64_t over = range.end % settings_.unit; over != 0) {
    range.end = std::min(range.end + settings_.unit - over, length_);
  }
  return range;
}

MirrorCopy::InFlight* MirrorCopy::find_in_flight(uint64_t begin, uint64_t end) const {
  for (InFlight* flight = in_flight_head_; flight != nullptr; flight = flight->next) {
    if (flight->range.overlaps(begin, end)) return flight;
  }
  return nullptr;
}

Task<void> MirrorCopy::wait_for_range(Extent range) {
  while (InFlight* other = find_in_flight(range.begin, range.end)) co_await other->waiters.wait();
}

// --- guests' requests

Task<Result<void>> MirrorCopy::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t length = buffers.size();
  const Extent range = whole_units(offset, length);
  co_await wait_for_range(range);
  InFlight flight(*this, range, length);
  if (auto written = co_await source_.write(offset, buffers, flags); !written) {
    changed(offset, length);
    co_return written;
  }
  Result<void> copied;
  bool error_is_read = false;
  if (range.length() != length) {
    copied = co_await copy_data(range, error_is_read);
  } else {
    copied = co_await target_.write(offset, std::move(buffers), RequestFlags().with_fua(flags.fua));
  }
  settle(offset, length, copied, error_is_read);
  co_return Result<void>();
}

Task<Result<void>> MirrorCopy::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  const Extent range = whole_units(offset, length);
  co_await wait_for_range(range);
  InFlight flight(*this, range, length);
  if (auto written = co_await source_.zero(offset, length, flags); !written) {
    changed(offset, length);
    co_return written;
  }
  Result<void> copied;
  bool error_is_read = false;
  if (range.length() != length) {
    copied = co_await copy_data(range, error_is_read);
  } else {
    copied = co_await target_.zero(
        offset, length, RequestFlags().with_fua(flags.fua).with_may_unmap(settings_.unmap));
  }
  settle(offset, length, copied, error_is_read);
  co_return Result<void>();
}

Task<Result<void>> MirrorCopy::discard(uint64_t offset, uint64_t length) {
  const Extent range = whole_units(offset, length);
  co_await wait_for_range(range);
  InFlight flight(*this, range, length);
  if (auto discarded = co_await source_.discard(offset, length); !discarded) {
    changed(offset, length);
    co_return discarded;
  }
  // What is there now, the source alone knows.
  Result<void> copied;
  bool error_is_read = false;
  for (uint64_t at = range.begin; at < range.end && copied;) {
    Extent piece{at, range.end, Kind::kData};
    auto answer =
        co_await chain_status(*source_.node(), nullptr, /*include_base=*/false, at, range.end - at);
    if (answer && answer->status.length > 0) {
      piece.end = std::min(at + answer->status.length, range.end);
      if (answer->status.zero) piece.kind = Kind::kZero;
    }
    copied = co_await copy(piece, error_is_read);
    at = piece.end;
  }
  settle(offset, length, copied, error_is_read);
  co_return Result<void>();
}

void MirrorCopy::settle(uint64_t offset, uint64_t length, const Result<void>& on_target,
                        bool error_is_read) {
  if (!on_target) {
    changed(offset, length);
    if (on_copy_failed) on_copy_failed(on_target.error(), error_is_read);
    return;
  }
  const uint64_t end = std::min(offset + length, length_);
  forget_known(offset, end);
  // A granule that was written in part is as equal as it was.
  const uint64_t first = granules_to(offset);
  const uint64_t last = end == length_ ? bitmap_.size() : granule_of(end);
  if (first < last) bitmap_.clear(first, last);
  if (progress_ != nullptr) progress_->done += length;
}

// --- the background

Task<MirrorCopy::Extent> MirrorCopy::look_up(uint64_t offset, Pass& pass) {
  const uint64_t granularity = settings_.granularity;
  asked_ = {offset, length_};
  answer_is_stale_ = false;
  auto answer = co_await chain_status(*source_.node(), nullptr, /*include_base=*/false, offset,
                                      length_ - offset);
  if (answer && answer->status.length > 0 && !answer->status.data && !answer->status.zero) {
    // Nothing, or what a raw node at the end of the chain has from further below.
    auto content = co_await chain_content(*source_.node(), nullptr, offset, answer->status.length);
    if (!content) {
      answer = io_error(content.error());
    } else if (content->length > 0) {
      answer->status.length = content->length;
      answer->status.data = content->allocated;
    }
  }
  asked_ = Extent();
  Extent extent{offset, std::min(offset + granularity, length_), Kind::kData};
  // What cannot be told, or has changed, and a granule that is not all of one kind, is data.
  if (!answer) {
    pass.failures_.push_back({answer.error(), /*is_read=*/true});
  } else if (answer->status.length > 0 && !answer_is_stale_) {
    const BlockStatus& status = answer->status;
    uint64_t end = std::min(offset + status.length, length_);
    if (end < length_) end -= end % granularity;
    if (end > offset) {
      extent.end = end;
      if (status.zero) {
        extent.kind = Kind::kZero;
      } else if (!status.data) {
        extent.kind = Kind::kNothing;
      }
      known_ = extent;
    }
  }
  co_return extent;
}

MirrorCopy::Extent MirrorCopy::next_claim(uint64_t offset, const Extent& known,
                                          const Pass& pass) const {
  uint64_t most = kZeroChunk;
  if (known.kind == Kind::kData) {
    most =
        std::min(std::max(settings_.buffer_size / kMaxInFlight, kDataChunk), settings_.buffer_size);
  }
  if (const uint64_t speed = costs(known.kind, pass) ? pass.rate_limit->speed() : 0; speed != 0) {
    most = std::min(most, std::max(speed / kPiecesPerSecond, settings_.least_piece));
  }
  most = std::max(most - most % settings_.granularity, settings_.granularity);
  const uint64_t limit = std::min(known.end, offset + most);
  const uint64_t stop = bitmap_.next_clear(granule_of(offset), granules_to(limit));
  Extent claim{offset, std::min(stop * settings_.granularity, length_), known.kind};
  if (settings_.unit > 1) {
    // What lies around the zeroes, or around nothing, is not known.
    const Extent whole = whole_units(claim.begin, claim.length());
    if (whole.begin != claim.begin || whole.end != claim.end) {
      claim = {whole.begin, whole.end, Kind::kData};
    }
  }
  return claim;
}

Task<Result<void>> MirrorCopy::copy(const Extent& claim, bool& error_is_read) {
  error_is_read = false;
  switch (claim.kind) {
    case Kind::kData:
      co_return co_await copy_data(claim, error_is_read);
    case Kind::kZero:
      co_return co_await target_.zero(claim.begin, claim.length(),
                                      RequestFlags().with_may_unmap(settings_.unmap));
    case Kind::kNothing:
      co_return co_await target_.discard(claim.begin, claim.length());
  }
  co_return Result<void>();
}

Task<Result<void>> MirrorCopy::copy_data(const Extent& claim, bool& error_is_read) {
  Buffer buffer = spare_.take(claim.length());
  const IoVector data = buffer.io(0, claim.length());
  Result<void> moved = co_await source_.read(claim.begin, data);
  error_is_read = !moved;
  if (moved) moved = co_await target_.write(claim.begin, data);
  if (moved) written_behind_.wrote(*target_.node(), claim.length());
  spare_.give_back(std::move(buffer));
  co_return moved;
}

Task<void> MirrorCopy::copy_for_pass(Extent claim, Pass& pass) {
  bool error_is_read = false;
  Result<void> copied;
  {
    InFlight flight(*this, claim, claim.length());
    bitmap_.clear(granule_of(claim.begin), granules_to(claim.end));
    copied = co_await copy(claim, error_is_read);
    if (!copied) {
      bitmap_.set(granule_of(claim.begin), granules_to(claim.end));
      pass.failures_.push_back({copied.error(), error_is_read});
    } else if (progress_ != nullptr) {
      progress_->done += claim.length();
    }
  }
  --pass.active_;
  if (claim.kind == Kind::kData) pass.active_bytes_ -= claim.length();
  pass.wake_.wake_all();
}

bool MirrorCopy::costs(Kind kind, const Pass& pass) const {
  return pass.rate_limit != nullptr && (kind == Kind::kData || settings_.zeroes_cost);
}

Task<bool> MirrorCopy::pay(const Extent& claim, Pass& pass) {
  if (!costs(claim.kind, pass)) co_return true;
  if (const int64_t delay = pass.rate_limit->delay(env_.now()); delay > 0) {
    if (pass.timer_ == nullptr) pass.timer_ = env_.make_timer();
    co_await pass.timer_->wait_until(env_.now() + delay);
    co_return false;
  }
  pass.rate_limit->account(claim.length(), env_.now());
  co_return true;
}

Task<void> MirrorCopy::copy_pass(Pass& pass) {
  uint64_t at = 0;
  int chunks = 0;
  while (!pass.stop_ && pass.failures_.empty()) {
    const uint64_t granule = bitmap_.next_set(granule_of(at), bitmap_.size());
    if (granule == bitmap_.size()) break;
    at = granule * settings_.granularity;
    if (pass.active_ >= kMaxInFlight) {
      co_await pass.wake_.wait();
      continue;
    }
    Extent known = known_;
    if (at < known.begin || known.end <= at) {
      known = co_await look_up(at, pass);
      // Somebody may have written to both meanwhile.
      if (!pass.failures_.empty() || !bitmap_.test(granule)) continue;
    }
    const Extent claim = next_claim(at, known, pass);
    if (claim.kind == Kind::kData && pass.active_bytes_ > 0 &&
        pass.active_bytes_ + claim.length() > settings_.buffer_size) {
      co_await pass.wake_.wait();
      continue;
    }
    if (InFlight* other = find_in_flight(claim.begin, claim.end)) {
      co_await other->waiters.wait();
      continue;
    }
    if (!co_await pay(claim, pass)) continue;
    at = claim.end;
    if (at == length_) at = bitmap_.size() * settings_.granularity;
    ++pass.active_;
    if (claim.kind == Kind::kData) pass.active_bytes_ += claim.length();
    copies_.spawn(copy_for_pass(claim, pass));
    if (++chunks % kChunksPerTurn == 0) co_await env_.executor().yield();
  }
  while (pass.active_ > 0) co_await pass.wake_.wait();
  spare_.clear();
}

}  // namespace blockbed
