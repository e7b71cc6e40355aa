#include "block/filters/block_copy.h"

#include <algorithm>

#include "block/graph/chain.h"
#include "block/graph/node.h"

namespace blockbed {

namespace {

// When nothing ever has to wait (null drivers, a warm page cache), the walk gives everybody else a
// turn this often.
constexpr int kChunksPerTurn = 16;

}  // namespace

class BlockCopy::InFlight {
 public:
  InFlight(BlockCopy& engine, const Extent& range)
      : begin(range.begin), end(range.end), waiters(engine.env_.executor()), engine_(engine) {
    engine_.bitmap_.clear(engine_.cluster_of(begin), engine_.clusters_to(end));
    engine_.in_flight_bytes_ += engine_.counted(range);
    next = engine_.in_flight_head_;
    if (next != nullptr) next->previous_ = this;
    engine_.in_flight_head_ = this;
  }
  ~InFlight() {
    engine_.in_flight_bytes_ -= engine_.counted({begin, end});
    if (previous_ != nullptr) {
      previous_->next = next;
    } else {
      engine_.in_flight_head_ = next;
    }
    if (next != nullptr) next->previous_ = previous_;
    waiters.wake_all();
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  const uint64_t begin;
  const uint64_t end;
  WaitQueue waiters;
  InFlight* next = nullptr;

 private:
  BlockCopy& engine_;
  InFlight* previous_ = nullptr;
};

BlockCopy::BlockCopy(Env& env, Edge& source, Edge& target, uint64_t length, uint64_t cluster_size)
    : env_(env),
      source_(source),
      target_(target),
      length_(length),
      cluster_size_(cluster_size),
      bitmap_(clusters_to(length)),
      workers_(env.executor()) {
  bitmap_.set(0, bitmap_.size());
}

BlockCopy::~BlockCopy() { BB_ASSERT(in_flight_head_ == nullptr); }

void BlockCopy::select_only(const DirtyBitmap& marked) {
  bitmap_.clear();
  // One of them may end with the last sector, the other within it.
  const uint64_t length = std::min(length_, marked.length());
  for (uint64_t at = marked.next_dirty(0); at < length;) {
    const uint64_t end = std::min(marked.next_clean(at), length);
    bitmap_.set(cluster_of(at), clusters_to(end));
    at = marked.next_dirty(end);
  }
}

Task<void> BlockCopy::deselect(uint64_t begin, uint64_t end) {
  for (;;) {
    bitmap_.clear(cluster_of(begin), clusters_to(end));
    if (progress_ != nullptr) progress_->remaining = remaining();
    InFlight* const flight = find_in_flight(begin, end);
    if (flight == nullptr) co_return;
    // When it fails, it selects what it was to copy.
    co_await flight->waiters.wait();
  }
}

uint64_t BlockCopy::remaining() const { return bitmap_.count() * cluster_size_ + in_flight_bytes_; }

void BlockCopy::set_progress(Progress* progress) {
  progress_ = progress;
  if (progress_ != nullptr) progress_->remaining = remaining();
}

uint64_t BlockCopy::data_chunk(uint64_t wish) const {
  // Compressing is work for the workers: many small pieces keep all of them busy.
  uint64_t chunk = compress_ ? cluster_size_ : kDataChunk;
  if (wish != 0) chunk = std::min(chunk, wish);
  return std::max(chunk - chunk % cluster_size_, cluster_size_);
}

BlockCopy::InFlight* BlockCopy::find_in_flight(uint64_t begin, uint64_t end) const {
  for (InFlight* flight = in_flight_head_; flight != nullptr; flight = flight->next) {
    if (flight->begin < end && begin < flight->end) return flight;
  }
  return nullptr;
}

bool BlockCopy::concerns(uint64_t offset, uint64_t length) const {
  const uint64_t last = clusters_to(std::min(offset + length, length_));
  const uint64_t first = std::min(cluster_of(offset), last);
  if (bitmap_.count() > 0 && bitmap_.next_set(first, last) != last) return true;
  return in_flight_head_ != nullptr &&
         find_in_flight(first * cluster_size_, last * cluster_size_) != nullptr;
}

// --- what is there

Task<Result<BlockCopy::Extent>> BlockCopy::look_up(uint64_t offset, uint64_t end, bool keep) {
  Node& source = *source_.node();
  Node* base = skip_unallocated_ ? source.skip_filters()->backing_node() : nullptr;
  auto answer = co_await chain_status(source, base, /*include_base=*/false, offset, end - offset);

  Extent extent{offset, std::min(offset + cluster_size_, length_), Kind::kData};
  // What cannot be told, and a cluster that is not all of one kind, is data.
  if (answer && answer->status.length > 0) {
    const BlockStatus& status = answer->status;
    uint64_t known_end = std::min(offset + status.length, length_);
    if (known_end < length_) known_end -= known_end % cluster_size_;
    if (known_end > offset) {
      extent.end = known_end;
      if (skip_unallocated_ && !status.allocated) {
        extent.kind = Kind::kUnallocated;
      } else if (status.zero) {
        extent.kind = Kind::kZero;
      }
    }
  }
  if (keep) known_ = extent;
  co_return extent;
}

Task<Result<uint64_t>> BlockCopy::skip_unallocated_from(uint64_t offset) {
  Node& source = *source_.node();
  auto answer = co_await chain_allocated(source, source.skip_filters()->backing_node(),
                                         /*include_base=*/false, offset, length_ - offset);
  if (!answer) co_return io_error(answer.error());
  if (answer->length == 0) co_return length_;
  const uint64_t end = std::min(offset + answer->length, length_);
  if (!answer->allocated) {
    const uint64_t first = clusters_to(offset);
    const uint64_t last = end == length_ ? bitmap_.size() : cluster_of(end);
    if (first < last) bitmap_.clear(first, last);
    if (progress_ != nullptr) progress_->remaining = remaining();
  }
  co_return end;
}

BlockCopy::Extent BlockCopy::next_claim(uint64_t offset, uint64_t end, const Extent& known,
                                        uint64_t chunk, uint64_t zero_chunk) const {
  const uint64_t most = known.kind == Kind::kData ? chunk : std::max(zero_chunk, cluster_size_);
  const uint64_t limit = std::min({end, known.end, offset + most - most % cluster_size_});
  const uint64_t stop = bitmap_.next_clear(cluster_of(offset), clusters_to(limit));
  return {offset, std::min(stop * cluster_size_, length_), known.kind};
}

// --- copying

Task<Result<void>> BlockCopy::copy(Extent claim, bool& error_is_read) {
  InFlight flight(*this, claim);
  error_is_read = false;
  Result<void> result;
  if (claim.kind == Kind::kData) {
    result = co_await copy_data(claim, error_is_read);
  } else if (claim.kind == Kind::kZero) {
    RequestFlags flags;
    flags.serialising = serialising_;
    result = co_await target_.zero(claim.begin, claim.end - claim.begin, flags);
  }
  if (!result) {
    bitmap_.set(cluster_of(claim.begin), clusters_to(claim.end));
  } else if (progress_ != nullptr) {
    progress_->remaining -= counted(claim);
    if (claim.kind != Kind::kUnallocated) progress_->done += counted(claim);
  }
  co_return result;
}

Task<Result<void>> BlockCopy::copy_data(Extent claim, bool& error_is_read) {
  RequestFlags flags;
  flags.serialising = serialising_;
  flags.compressed = compress_;
  if (copy_range_ && !compress_) {
    const Result<void> copied = co_await source_.copy_range_to(claim.begin, claim.end - claim.begin,
                                                               target_, claim.begin, flags);
    if (copied) co_return copied;
    // Whatever the reason: reading and writing tells whose error it is, if it is one.
    copy_range_ = false;
  }

  // Only a cluster that is larger than a chunk takes more than one turn.
  const uint64_t piece_size = compress_ ? claim.end - claim.begin : kDataChunk;
  Buffer buffer = spare_.take(std::min(piece_size, claim.end - claim.begin));
  for (uint64_t at = claim.begin; at < claim.end;) {
    const uint64_t piece = std::min(std::min(piece_size, claim.end - claim.begin), claim.end - at);
    Result<void> moved = co_await source_.read(at, buffer.io(0, piece));
    error_is_read = !moved;
    if (moved) moved = co_await target_.write(at, buffer.io(0, piece), flags);
    if (!moved) {
      give_back(std::move(buffer));
      co_return moved;
    }
    at += piece;
  }
  give_back(std::move(buffer));
  co_return Result<void>();
}

void BlockCopy::give_back(Buffer buffer) {
  // Only a walk will want it again.
  if (walking_) spare_.give_back(std::move(buffer));
}

Task<Result<void>> BlockCopy::copy_before(uint64_t offset, uint64_t length) {
  const uint64_t end = std::min(offset + length, length_);
  const uint64_t first = cluster_of(offset);
  const uint64_t last = std::max(first, clusters_to(end));
  const uint64_t chunk = data_chunk(0);
  while (first < last) {
    const uint64_t cluster = bitmap_.next_set(first, last);
    if (cluster == last) {
      InFlight* other = find_in_flight(first * cluster_size_, last * cluster_size_);
      if (other == nullptr) break;
      // When it fails, its clusters are ours to copy.
      co_await other->waiters.wait();
      continue;
    }
    const uint64_t at = cluster * cluster_size_;
    const uint64_t copy_end = std::min(last * cluster_size_, length_);
    Extent extent = known_;
    if (!known(at)) {
      auto found = co_await look_up(at, copy_end, /*keep=*/false);
      if (!found) co_return io_error(found.error());
      extent = *found;
      // Somebody else may have taken it meanwhile.
      if (!bitmap_.test(cluster)) continue;
    }
    bool error_is_read = false;
    BB_CO_TRY(co_await copy(next_claim(at, copy_end, extent, chunk, kZeroChunk), error_is_read));
  }
  co_return Result<void>();
}

// --- the walk

Task<void> BlockCopy::copy_for_run(Extent claim, Run& run) {
  bool error_is_read = false;
  Result<void> result = co_await copy(claim, error_is_read);
  if (!result && !run.error_) {
    run.error_ = result.error();
    run.error_is_read_ = error_is_read;
  }
  --run.active_;
  run.wake_.wake_all();
}

Task<void> BlockCopy::wait_for_rate(Run& run, int64_t delay) {
  if (run.timer_ == nullptr) run.timer_ = env_.make_timer();
  co_await run.timer_->wait_until(env_.now() + delay);
}

Task<void> BlockCopy::run(Run& run) {
  const uint64_t chunk = data_chunk(run.max_chunk);
  const int workers = static_cast<int>(
      std::clamp<uint64_t>(kMaxRunBytes / chunk, 1, static_cast<uint64_t>(run.max_workers)));
  uint64_t at = 0;
  int chunks = 0;
  walking_ = true;
  while (!run.stop_ && !run.error_) {
    const uint64_t cluster = bitmap_.next_set(cluster_of(at), bitmap_.size());
    if (cluster == bitmap_.size()) {
      if (bitmap_.count() > 0) {
        // A copy failed behind us.
        at = 0;
      } else if (run.active_ > 0) {
        co_await run.wake_.wait();
      } else if (in_flight_head_ != nullptr) {
        // A guest's copy: when it fails, it is our turn.
        co_await in_flight_head_->waiters.wait();
      } else {
        run.complete_ = true;
        break;
      }
      continue;
    }
    at = cluster * cluster_size_;
    if (run.active_ >= workers) {
      co_await run.wake_.wait();
      continue;
    }
    if (!known(at)) {
      auto found = co_await look_up(at, length_, /*keep=*/true);
      if (!found && !run.error_) {
        run.error_ = found.error();
        run.error_is_read_ = true;
      }
      continue;
    }
    // Zeroes cost as much as data.
    const bool limited = run.rate_limit != nullptr && run.rate_limit->speed() > 0;
    const Extent claim = next_claim(at, length_, known_, chunk, limited ? chunk : kZeroChunk);
    if (limited) {
      if (const int64_t delay = run.rate_limit->delay(env_.now()); delay > 0) {
        co_await wait_for_rate(run, delay);
        continue;
      }
      run.rate_limit->account(claim.end - claim.begin, env_.now());
    }
    at = claim.end;
    ++run.active_;
    workers_.spawn(copy_for_run(claim, run));
    if (++chunks % kChunksPerTurn == 0) co_await env_.executor().yield();
  }
  while (run.active_ > 0) co_await run.wake_.wait();
  walking_ = false;
  spare_.clear();
}

}  // namespace blockbed
