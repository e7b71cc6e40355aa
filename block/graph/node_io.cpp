// The data path of a node: checks, alignment, overlap, splitting, zeroes, flush.
#include <fmt/format.h>

#include <algorithm>

#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"
#include "block/graph/node.h"
#include "block/graph/padding.h"
#include "block/graph/request_scope.h"
#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "schema/block_event.h"

namespace blockbed {

namespace {

// Zeroes that a driver cannot write as such are written from a buffer of this size at most.
constexpr uint64_t kZeroBufferBytes = uint64_t{1} << 20;

constexpr uint64_t round_down(uint64_t value, uint64_t unit) { return value - value % unit; }
constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
  return round_down(value + unit - 1, unit);
}

Result<void> check_range(uint64_t offset, uint64_t length) {
  if (offset > kMaxLength || length > kMaxLength - offset) return io_error(EIO);
  return {};
}

Result<void> check_request(uint64_t offset, uint64_t length) {
  if (length > kMaxRequestBytes) return io_error(EIO);
  return check_range(offset, length);
}

// The part of a limited request that goes to the driver at once.
uint64_t piece_of(uint64_t length, uint64_t maximum) {
  return maximum == 0 ? length : std::min(length, maximum);
}

bool is_aligned(uint64_t offset, uint64_t length, uint64_t unit) {
  return (offset | length) % unit == 0;
}

}  // namespace

Task<Result<void>> Node::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  const uint64_t length = buffers.size();
  BB_CO_TRY(check_request(offset, length));
  if (length == 0) co_return Result<void>();

  const bool keeps = (flags.copy_on_read || keeps_reads_) && keeps_here();
  if ((flags.copy_on_read || flags.prefetch) && !keeps && !driver_->honours_copy_on_read()) {
    // Where nothing can be kept, it is a read like others, of which nobody may want the bytes.
    if (flags.prefetch) co_return Result<void>();
    flags.copy_on_read = false;
  }
  RequestScope request(*this, TrackedRequest::Kind::kRead, offset, length);
  if (keeps) [[unlikely]]
    request.serialise(keeping_unit());
  if (flags.serialising || driver_->reads_repair()) request.serialise(limits_.request_alignment);
  if (request.must_wait()) co_await request.wait_for_overlapping();

  if (keeps) [[unlikely]]
    co_return co_await read_keeping(offset, std::move(buffers), flags);
  co_return co_await read_widened(offset, std::move(buffers), flags);
}

Task<Result<void>> Node::read_widened(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t length = buffers.size();
  if (is_aligned(offset, length, limits_.request_alignment)) [[likely]] {
    co_return co_await read_aligned(offset, std::move(buffers), flags);
  }
  Padding padding(offset, length, limits_.request_alignment);
  co_return co_await read_aligned(padding.offset, padding.widen(buffers), flags);
}

Task<Result<void>> Node::read_aligned(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (driver_->length_varies()) {
    if (auto varied = co_await refresh_length(); !varied) co_return io_error(varied.error());
  }
  const uint64_t readable =
      offset >= length_ ? 0 : round_up(length_ - offset, limits_.request_alignment);
  if (readable >= buffers.size() &&
      (limits_.max_transfer == 0 || buffers.size() <= limits_.max_transfer)) [[likely]] {
    co_return co_await driver_->read(offset, std::move(buffers), flags);
  }
  const uint64_t length = std::min<uint64_t>(buffers.size(), readable);
  for (uint64_t done = 0; done < length;) {
    const uint64_t piece = piece_of(length - done, limits_.max_transfer);
    BB_CO_TRY(co_await driver_->read(offset + done, buffers.slice(done, piece), flags));
    done += piece;
  }
  if (length < buffers.size()) buffers.slice(length, buffers.size() - length).fill(0);
  co_return Result<void>();
}

Task<Result<void>> Node::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  const uint64_t length = buffers.size();
  BB_CO_TRY(check_request(offset, length));
  BB_CO_TRY(check_end(offset + length));
  if (!writable()) co_return io_error(EPERM);
  if (flags.compressed) co_return co_await write_compressed(offset, std::move(buffers), flags);
  if (length == 0) co_return Result<void>();

  RequestScope request(*this, TrackedRequest::Kind::kWrite, offset, length);
  const uint64_t unit = limits_.request_alignment;
  const bool aligned = is_aligned(offset, length, unit);
  if (flags.serialising || !aligned) request.serialise(unit);
  if (request.must_wait()) co_await request.wait_for_overlapping();
  if (aligned) [[likely]] {
    co_return co_await write_aligned(offset, std::move(buffers), flags);
  }

  Padding padding(offset, length, unit);
  BB_CO_TRY(co_await read_around(padding));
  co_return co_await write_aligned(padding.offset, padding.widen(buffers), flags);
}

Task<Result<void>> Node::write_aligned(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t length = buffers.size();
  if (!flags.write_unchanged) check_write_threshold(offset + length);
  if (flags_.detect_zeroes != DetectZeroes::kOff && !flags.compressed && buffers.all_zero()) {
    RequestFlags zero_flags = flags;
    zero_flags.may_unmap = flags_.detect_zeroes == DetectZeroes::kUnmap;
    co_return co_await zero_aligned(offset, length, zero_flags);
  }
  const bool flush_after = flags.fua && !driver_->honours_fua_write();
  RequestFlags passed = flags;
  if (flush_after) passed.fua = false;

  if (debug_listener_ != nullptr) [[unlikely]] {
    co_await DebugPoint(debug_listener_, DebugEvent::kPwritev);
  }
  Result<void> result;
  if (limits_.max_transfer == 0 || length <= limits_.max_transfer) [[likely]] {
    result = co_await driver_->write(offset, std::move(buffers), passed);
  } else {
    for (uint64_t done = 0; done < length && result;) {
      const uint64_t piece = piece_of(length - done, limits_.max_transfer);
      result = co_await driver_->write(offset + done, buffers.slice(done, piece), passed);
      done += piece;
    }
  }
  if (debug_listener_ != nullptr) [[unlikely]] {
    co_await DebugPoint(debug_listener_, DebugEvent::kPwritevDone);
  }
  written(offset, length, result.has_value(), flags);
  if (result && flush_after) result = co_await flush();
  co_return result;
}

Task<Result<void>> Node::write_compressed(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t length = buffers.size();
  RequestScope request(*this, TrackedRequest::Kind::kWrite, offset, length);
  if (flags.serialising) request.serialise(limits_.request_alignment);
  if (request.must_wait()) co_await request.wait_for_overlapping();
  check_write_threshold(offset + length);
  Result<void> result = co_await driver_->write_compressed(offset, std::move(buffers));
  written(offset, length, result.has_value(), flags);
  co_return result;
}

void Node::cross_write_threshold(uint64_t end) {
  schema::events::BlockWriteThreshold event;
  event.node_name = name_;
  event.write_threshold = std::exchange(write_threshold_, 0);
  event.amount_exceeded = end - event.write_threshold;
  graph_.events().emit(event);
}

Result<void> Node::check_end(uint64_t end) const {
  if (end <= length_ || driver_->writes_extend() || end <= rounded_length()) [[likely]]
    return {};
  return io_error(ENOSPC);
}

void Node::written(uint64_t offset, uint64_t length, bool succeeded, RequestFlags flags) {
  ++write_generation_;
  if (length == 0) return;
  const uint64_t end = offset + length;
  // A write that failed may have come that far, or changed a part.
  highest_written_offset_ = std::max(highest_written_offset_, end);
  if (succeeded && end > length_) set_length(end);
  if (!flags.write_unchanged) tell_changed(offset, length);
}

void Node::tell_changed(uint64_t offset, uint64_t length) {
  if (!dirty_bitmaps_->empty()) dirty_bitmaps_->mark(offset, length);
  for (WriteListener* listener : write_listeners_) listener->node_written(offset, length);
}

Task<Result<void>> Node::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  BB_CO_TRY(check_range(offset, length));
  BB_CO_TRY(check_end(offset + length));
  if (!writable()) co_return io_error(EPERM);
  if (length == 0) co_return Result<void>();

  RequestScope request(*this, TrackedRequest::Kind::kZero, offset, length);
  const uint64_t unit = limits_.request_alignment;
  const bool aligned = is_aligned(offset, length, unit);
  if (flags.serialising || !aligned) request.serialise(unit);
  if (request.must_wait()) co_await request.wait_for_overlapping();
  if (aligned) [[likely]] {
    co_return co_await zero_aligned(offset, length, flags);
  }
  co_return co_await zero_widened(offset, length, flags);
}

Task<Result<void>> Node::zero_aligned(uint64_t offset, uint64_t length, RequestFlags flags) {
  if (!flags.write_unchanged) check_write_threshold(offset + length);
  const bool flush_after = flags.fua && !driver_->honours_fua_zero();
  RequestFlags passed = flags;
  if (flush_after) passed.fua = false;
  const uint64_t unit = std::max<uint64_t>(limits_.zero_alignment, limits_.request_alignment);

  co_await DebugPoint(debug_listener_, DebugEvent::kPwritevZero);
  Result<void> result;
  Buffer zeroes;
  for (uint64_t at = offset, end = offset + length; at < end && result;) {
    // Up to the next boundary, then whole units, then the rest: a driver zeroes whole units best.
    uint64_t piece = end - at;
    if (const uint64_t misaligned = at % unit; misaligned != 0) {
      piece = std::min(piece, unit - misaligned);
    } else if (piece > unit) {
      piece = round_down(piece, unit);
    }
    piece = piece_of(
        piece, limits_.max_zero == 0 ? 0 : std::max(unit, round_down(limits_.max_zero, unit)));
    result = co_await driver_->zero(at, piece, passed);
    if (!result && result.error().number() == ENOTSUP && !flags.no_fallback) {
      const uint64_t buffer_size = std::min(piece, kZeroBufferBytes);
      if (zeroes.size() < buffer_size) zeroes = Buffer::zeroed(buffer_size);
      piece = std::min<uint64_t>(piece, zeroes.size());
      piece = piece_of(piece, limits_.max_transfer);
      RequestFlags write_flags;
      write_flags.fua = flags.fua && driver_->honours_fua_write();
      result = co_await driver_->write(at, zeroes.io(0, piece), write_flags);
    }
    at += piece;
  }
  co_await DebugPoint(debug_listener_, DebugEvent::kPwritevDone);
  written(offset, length, result.has_value(), flags);
  if (result && flags.fua && (flush_after || !driver_->honours_fua_write()))
    result = co_await flush();
  co_return result;
}

Task<Result<void>> Node::discard(uint64_t offset, uint64_t length) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  BB_CO_TRY(check_range(offset, length));
  if (!writable()) co_return io_error(EPERM);
  if (!flags_.unmap || length == 0) co_return Result<void>();

  RequestScope request(*this, TrackedRequest::Kind::kDiscard, offset, length);
  if (request.must_wait()) co_await request.wait_for_overlapping();

  // A discard may always do less: what does not fill a block of the device stays.
  const uint64_t unit = std::max<uint64_t>(limits_.discard_alignment, limits_.request_alignment);
  Result<void> result;
  for (uint64_t at = offset, end = offset + length; at < end && result;) {
    uint64_t piece = end - at;
    if (const uint64_t misaligned = at % unit; misaligned != 0) {
      piece = std::min(piece, unit - misaligned);
    } else if (piece > unit) {
      piece = round_down(piece, unit);
    }
    piece = piece_of(piece, limits_.max_discard == 0
                                ? 0
                                : std::max(unit, round_down(limits_.max_discard, unit)));
    if (is_aligned(at, piece, limits_.request_alignment)) {
      result = co_await driver_->discard(at, piece);
      if (!result && result.error().number() == ENOTSUP) result = Result<void>();
    }
    at += piece;
  }
  ++write_generation_;
  tell_changed(offset, length);
  co_return result;
}

// --- copies inside the host. Nobody sees the bytes: what needs padding is left to reading and
// writing, and zeroes among them are not detected.

Task<Result<void>> Node::copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                       uint64_t target_offset, RequestFlags flags) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  BB_CO_TRY(check_request(offset, length));
  if (!is_aligned(offset, length, limits_.request_alignment)) co_return io_error(ENOTSUP);

  RequestScope request(*this, TrackedRequest::Kind::kRead, offset, length);
  if (request.must_wait()) co_await request.wait_for_overlapping();
  co_return co_await driver_->copy_range_to(offset, length, target, target_offset, flags);
}

Task<Result<void>> Node::copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                         uint64_t length, RequestFlags flags) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  BB_CO_TRY(check_request(offset, length));
  BB_CO_TRY(check_end(offset + length));
  if (!writable()) co_return io_error(EPERM);
  const uint64_t unit = limits_.request_alignment;
  if (!is_aligned(offset, length, unit) || flags.fua) co_return io_error(ENOTSUP);

  RequestScope request(*this, TrackedRequest::Kind::kWrite, offset, length);
  if (flags.serialising) request.serialise(unit);
  if (request.must_wait()) co_await request.wait_for_overlapping();
  check_write_threshold(offset + length);
  Result<void> result =
      co_await driver_->copy_range_from(source, source_offset, offset, length, flags);
  written(offset, length, result.has_value(), flags);
  co_return result;
}

Task<Result<void>> Node::make_empty() {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  if (!writable()) co_return io_error(EPERM);
  BB_ASSERT(quiesced());
  auto done = co_await driver_->make_empty();
  ++write_generation_;
  co_return done;
}

bool Node::takes_flush(const Edge& child) const {
  const Permissions needs = child.permissions().needs;
  return driver_->flush_reaches(child) &&
         (needs.has(Permission::kWrite) || needs.has(Permission::kWriteUnchanged));
}

Task<Result<void>> Node::flush() {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  // What was written while flushes were ignored is still to be flushed when the node has since
  // become one for reading.
  if (!writable() && flushed_generation_ == write_generation_) co_return Result<void>();
  RequestScope request(*this, TrackedRequest::Kind::kFlush, 0, 0);

  // One flush at a time; those that queue behind it find their writes flushed by the next one.
  MutexGuard guard = co_await flush_lock_.lock();
  const uint64_t generation = write_generation_;
  const Edge* below = filtered_edge() != nullptr ? filtered_edge() : storage_edge();
  if (below != nullptr) co_await below->debug_event(DebugEvent::kFlushToOs);
  BB_CO_TRY(co_await driver_->flush_to_children());
  if (flags_.cache_no_flush) co_return Result<void>();
  if (flushed_generation_ != generation) {
    if (below != nullptr) co_await below->debug_event(DebugEvent::kFlushToDisk);
    BB_CO_TRY(co_await driver_->flush_to_disk());
  }
  for (std::size_t i = 0; i < children_.size(); ++i) {
    if (takes_flush(*children_[i])) BB_CO_TRY(co_await children_[i]->flush());
  }
  flushed_generation_ = generation;
  co_return Result<void>();
}

Task<void> Node::expect_flush() {
  if (!is_open() || !writable() || flags_.cache_no_flush) co_return;
  RequestScope request(*this, TrackedRequest::Kind::kFlush, 0, 0);
  co_await driver_->expect_flush();
  for (std::size_t i = 0; i < children_.size(); ++i) {
    if (takes_flush(*children_[i])) co_await children_[i]->node()->expect_flush();
  }
}

Task<Result<BlockStatus>> Node::block_status(uint64_t offset, uint64_t length, bool want_zero) {
  if (!is_open()) co_return io_error(ENOMEDIUM);
  BB_CO_TRY(check_range(offset, length));
  if (driver_->length_varies()) {
    if (auto varied = co_await refresh_length(); !varied) co_return io_error(varied.error());
  }
  BlockStatus status;
  if (offset >= length_) {
    status.eof = true;
    co_return status;
  }
  if (length == 0) co_return status;
  const uint64_t asked_end = std::min(offset + length, length_);
  RequestScope request(*this, TrackedRequest::Kind::kRead, offset, asked_end - offset);

  const uint64_t unit = limits_.request_alignment;
  const uint64_t begin = round_down(offset, unit);
  const uint64_t end = round_up(asked_end, unit);
  auto answer = co_await driver_->block_status(begin, end - begin, want_zero);
  if (!answer) co_return answer;
  status = *answer;
  BB_ASSERT(status.length > 0 && status.length <= end - begin);

  if (status.passes_through) {
    // The child decides, at the offset that the driver named.
    BB_ASSERT(status.offset && status.file != nullptr);
    auto below = co_await status.file->block_status(*status.offset, status.length, want_zero);
    if (!below) co_return below;
    const bool compressed = status.compressed;
    const uint64_t driver_length = status.length;
    status = *below;
    status.compressed |= compressed;
    status.eof = false;
    // Beyond the end of the child there are zeroes.
    if (status.length == 0) {
      status.length = driver_length;
      status.zero = status.allocated = true;
    }
  } else {
    if (status.data || status.zero) {
      status.allocated = true;
    } else if (want_zero && driver_->supports_backing()) {
      Node* below = backing_node();
      if (below == nullptr || begin >= below->length()) {
        status.zero = true;
        if (below != nullptr) status.allocated = false;
      } else if (begin + status.length > below->length()) {
        status.length = std::max<uint64_t>(round_down(below->length() - begin, unit),
                                           std::min(unit, status.length));
      }
    }
    if (want_zero && status.ask_file && status.data && status.offset && status.file != nullptr &&
        status.file != this) {
      auto below = co_await status.file->block_status(*status.offset, status.length, true);
      if (below) {
        if (below->length == 0) {
          // A preallocated cluster beyond the end of the file: zero until it is written.
          status.zero = true;
        } else {
          status.length = std::min(status.length, below->length);
          status.zero |= below->zero;
        }
      }
    }
  }

  // The answer is for whole units; cut it back to what was asked.
  if (status.offset) *status.offset += offset - begin;
  status.length -= std::min(status.length, offset - begin);
  status.length = std::min(status.length, asked_end - offset);
  status.ask_file = false;
  status.passes_through = false;
  status.eof = offset + status.length == length_;
  co_return status;
}

Task<Result<uint64_t>> Node::refresh_length() {
  auto length = co_await driver_->length();
  if (!length) co_return io_error(length.error());
  if (*length > kMaxLength) co_return io_error(EFBIG);
  set_length(*length);
  co_return length_;
}

void Node::set_length(uint64_t length) {
  if (length == length_) return;
  length_ = length;
  dirty_bitmaps_->resize(length);
  notify_resized();
}

void Node::notify_resized() {
  // A parent may react by changing its own length, never by changing edges.
  for (Edge* edge : parents_) edge->parent().node_resized(*edge);
}

// QEMU's. A little more than a node may be long: who is asked for that much says why not.
constexpr uint64_t kMaxTruncate = (uint64_t{1} << 63) - (uint64_t{1} << 30);

Task<Expected<void>> Node::truncate(uint64_t length, TruncateOptions options) {
  if (!is_open()) co_return fail("No medium inserted");
  if (length > kMaxTruncate) {
    co_return fail(fmt::format("offset({}) exceeds maximum({})", length, kMaxTruncate));
  }
  const uint64_t old_length = length_;
  const uint64_t changed_from = std::min(old_length, length);
  RequestScope request(*this, TrackedRequest::Kind::kTruncate, changed_from,
                       std::max(old_length, length) - changed_from);
  request.serialise(limits_.request_alignment);
  co_await request.wait_for_overlapping();

  if (!writable()) co_return fail("Image is read-only");
  // What a longer backing file has behind the old end must not appear.
  if (length > old_length) {
    if (Node* below = backing_node(); below != nullptr && below->length() > old_length)
      options.zero_new = true;
  }
  BB_CO_TRY(co_await driver_->truncate(length, options));
  ++write_generation_;
  if (auto refreshed = co_await refresh_length(); !refreshed) {
    co_return fail(
        fmt::format("Could not refresh total sector count: {}", strerror_text(refreshed.error())));
  }
  co_return Expected<void>();
}

}  // namespace blockbed
