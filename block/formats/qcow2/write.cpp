// Image: writing.
#include <utility>

#include "block/formats/qcow2/bitmaps.h"
#include "block/formats/qcow2/image.h"

namespace blockbed::qcow2 {

void Image::enter(InFlight& change) {
  change.next = in_flight_;
  if (in_flight_ != nullptr) in_flight_->previous = &change;
  in_flight_ = &change;
}

void Image::leave(InFlight& change) {
  (change.previous != nullptr ? change.previous->next : in_flight_) = change.next;
  if (change.next != nullptr) change.next->previous = change.previous;
  in_flight_ended_.wake_all();
}

uint64_t Image::next_in_flight(uint64_t begin) const {
  uint64_t next = UINT64_MAX;
  for (const InFlight* change = in_flight_; change != nullptr; change = change->next) {
    if (change->end > begin) next = std::min(next, std::max(change->begin, begin));
  }
  return next;
}

Task<MutexGuard> Image::lock_range(uint64_t begin, uint64_t end) {
  for (;;) {
    while (next_in_flight(begin) < end) co_await in_flight_ended_.wait();
    MutexGuard guard = co_await metadata_.lock();
    if (next_in_flight(begin) >= end) co_return guard;
  }
}

Task<Result<void>> Image::begin_writing() {
  MutexGuard guard = co_await metadata_.lock();
  if (writing_) co_return Result<void>();
  BB_CO_TRY(co_await metadata_.prepare_for_writing());
  if (header().bitmaps) {
    auto bitmaps = co_await load_directory(metadata_.file(), header());
    if (!bitmaps) co_return io_error(EIO);
    BB_CO_TRY(co_await mark_in_use(metadata_.file(), *bitmaps));
  }
  BB_CO_TRY(co_await protect_snapshots());
  writing_ = true;
  co_return Result<void>();
}

Task<Result<void>> Image::write(uint64_t offset, IoVector buffers) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  const uint64_t size = buffers.size();
  for (uint64_t done = 0; done < size;) {
    Metadata::Piece* piece = nullptr;
    if (metadata_.find_piece(offset + done, piece) == Metadata::Lookup::kHere) {
      const WriteRun run = map_write(geometry(), piece->data(), offset + done, size - done);
      if (run.kind == WriteKind::kInPlace) {
        if (metadata_.overlap(run.host, run.length) == 0) [[likely]] {
          co_await metadata_.file().debug_event(DebugEvent::kWriteAio);
          if (run.length == size) {
            co_return co_await metadata_.data().write(run.host, std::move(buffers));
          }
          BB_CO_TRY(co_await metadata_.data().write(run.host, buffers.slice(done, run.length)));
          done += run.length;
          continue;
        }
      }
    }
    auto some = co_await write_some(offset + done, Payload(buffers.slice(done, size - done)));
    if (!some) co_return io_error(some.error());
    done += *some;
  }
  co_return Result<void>();
}

Task<bool> Image::make_room(Errno failure) {
  if (failure.number() != ENOSPC || geometry().external_data) co_return false;
  MutexGuard guard = co_await metadata_.lock();
  co_return co_await metadata_.use_what_waits();
}

uint32_t Image::metadata_at(uint64_t host, uint64_t size) const {
  return geometry().external_data ? 0 : metadata_.overlap(host, size);
}

Task<Result<void>> Image::check_place(uint64_t host, uint64_t size) {
  if (const uint32_t hit = metadata_at(host, size); hit != 0) {
    co_return io_error(co_await metadata_.report_overlap(hit, host, size));
  }
  co_return Result<void>();
}

Task<Result<void>> Image::write_data(uint64_t host, IoVector buffers) {
  if (metadata_at(host, buffers.size()) != 0) [[unlikely]] {
    co_return co_await check_place(host, buffers.size());
  }
  co_return co_await metadata_.data().write(host, std::move(buffers));
}

Task<Result<uint64_t>> Image::write_some(uint64_t guest, Payload payload) {
  auto done = co_await write_run(guest, std::move(payload));
  if (!done && co_await make_room(done.error())) co_return 0;
  co_return done;
}

Task<Result<uint64_t>> Image::write_run(uint64_t guest, Payload payload) {
  const Geometry& g = geometry();
  WritePlan plan;
  InFlight change;
  {
    MutexGuard guard =
        co_await lock_range(g.cluster_start(guest), g.cluster_start(guest) + g.cluster_size);
    const uint64_t limit = next_in_flight(guest);
    const uint64_t length = std::min<uint64_t>(payload.size, limit - guest);
    BB_CO_TRY(co_await plan_write(guest, length, plan));
    if (plan.kind != WriteKind::kInPlace) {
      change.begin = g.cluster_start(guest);
      change.end = align_up(guest + plan.length, g.cluster_size);
      enter(change);
    }
  }
  payload.shorten(plan.length);
  if (plan.kind == WriteKind::kInPlace) {
    if (payload.source != nullptr) {
      BB_CO_TRY(co_await copy_data(plan.host, payload));
    } else {
      co_await metadata_.file().debug_event(DebugEvent::kWriteAio);
      BB_CO_TRY(co_await write_data(plan.host, std::move(payload.buffers)));
    }
    co_return plan.length;
  }
  auto done = co_await write_with_cow(plan, std::move(payload));
  MutexGuard guard = co_await metadata_.lock();
  if (done) done = co_await link(plan);
  if (!done && plan.kind == WriteKind::kAllocate && !g.external_data) {
    const uint64_t host = g.cluster_start(plan.host);
    (void)co_await metadata_.give_back(host,
                                       align_up(plan.host + plan.length, g.cluster_size) - host);
  }
  leave(change);
  if (!done) co_return io_error(done.error());
  co_return plan.length;
}

Task<Result<void>> Image::plan_write(uint64_t guest, uint64_t length, WritePlan& plan) {
  const Geometry& g = geometry();
  // What is overwritten changes no table, and needs no room in one.
  auto found = co_await metadata_.load_own_piece(guest);
  if (!found) co_return io_error(found.error());
  WriteRun run;
  if (*found != nullptr) run = map_write(g, (*found)->data(), guest, length);
  if (*found == nullptr || (run.kind != WriteKind::kInPlace && run.kind != WriteKind::kInvalid)) {
    auto piece = co_await metadata_.writable_piece(guest);
    if (!piece) co_return io_error(piece.error());
    run = map_write(g, (*piece)->data(), guest, length);
  }
  if (run.kind == WriteKind::kInvalid) {
    co_return io_error(co_await report_fault(run.fault, guest, true));
  }
  plan.kind = run.kind;
  plan.guest = guest;
  plan.length = run.length;
  plan.host = run.host;
  if (run.kind == WriteKind::kInPlace) co_return Result<void>();

  const uint64_t end = guest + run.length;
  plan.head = CowPart{align_down(guest, run.head_unit), guest, false};
  plan.tail = CowPart{end, align_up(end, run.tail_unit), false};
  plan.head.zero = reads_zero(run.head_kind, plan.head.begin);
  plan.tail.zero = reads_zero(run.tail_kind, plan.tail.begin);
  if (run.kind == WriteKind::kReuse) {
    metadata_.keep_place(g.cluster_start(run.host),
                         align_up(run.host + run.length, g.cluster_size));
    co_return Result<void>();
  }

  if (g.external_data) {
    plan.host = guest;
    metadata_.keep_place(g.cluster_start(guest), align_up(end, g.cluster_size));
    co_return Result<void>();
  }
  const uint64_t first = g.cluster_start(guest);
  const uint64_t clusters = (align_up(end, g.cluster_size) - first) >> g.cluster_bits;
  auto allocation = co_await metadata_.allocate(
      clusters, "data cluster", Metadata::FirstWrite{g.in_cluster(guest), run.length});
  if (!allocation) co_return io_error(allocation.error());
  plan.host = allocation->host + g.in_cluster(guest);
  plan.fresh = allocation->fresh;
  co_return Result<void>();
}

Task<Result<Image::CowNeed>> Image::fetch_cow(const CowPart& part, bool fresh, Buffer& into) {
  if (part.length() == 0 || (part.zero && fresh)) co_return CowNeed::kNothing;
  if (part.zero) {
    into = Buffer::zeroed(part.length());
    co_return CowNeed::kWrite;
  }
  into = Buffer(part.length());
  co_await metadata_.file().debug_event(DebugEvent::kCowRead);
  BB_CO_TRY(co_await read_unguarded(part.begin, into.io()));
  const bool there = fresh && all_zero(into.data(), into.size());
  co_return there ? CowNeed::kThere : CowNeed::kWrite;
}

Task<Result<void>> Image::write_with_cow(const WritePlan& plan, Payload payload) {
  if (payload.source != nullptr) co_return co_await copy_with_cow(plan, payload);
  IoVector buffers = std::move(payload.buffers);
  Buffer head;
  Buffer tail;
  auto with_head = co_await fetch_cow(plan.head, plan.fresh, head);
  if (!with_head) co_return io_error(with_head.error());
  auto with_tail = co_await fetch_cow(plan.tail, plan.fresh, tail);
  if (!with_tail) co_return io_error(with_tail.error());
  const bool write_head = *with_head == CowNeed::kWrite;
  const bool write_tail = *with_tail == CowNeed::kWrite;
  co_await metadata_.file().debug_event(DebugEvent::kWriteAio);
  // One request for what QEMU may write as two or three, and without what is there already.
  if (*with_head != CowNeed::kNothing || *with_tail != CowNeed::kNothing) {
    co_await metadata_.file().debug_event(DebugEvent::kCowWrite);
  }
  if (!write_head && !write_tail) co_return co_await write_data(plan.host, std::move(buffers));
  // What is told of is what the guest writes.
  BB_CO_TRY(co_await check_place(plan.host, plan.length));
  IoVector whole;
  if (write_head) whole.append(head.data(), head.size());
  for (const iovec& range : buffers.ranges()) whole.append(range.iov_base, range.iov_len);
  if (write_tail) whole.append(tail.data(), tail.size());
  co_return co_await write_data(plan.host - (write_head ? head.size() : 0), std::move(whole));
}

Task<Result<void>> Image::link(const WritePlan& plan) {
  const Geometry& g = geometry();
  auto piece = co_await metadata_.writable_piece(plan.guest);
  if (!piece) co_return io_error(piece.error());
  const uint64_t begin = plan.head.begin;
  const uint64_t end = plan.tail.end;
  const uint64_t last = align_up(plan.guest + plan.length, g.cluster_size);
  uint64_t host = g.cluster_start(plan.host);
  for (uint64_t at = g.cluster_start(plan.guest); at < last; at += g.cluster_size) {
    const uint32_t index = g.index_in_piece(at);
    const L2Entry old = load_entry(g, (*piece)->data(), index);
    store_entry(g, (*piece)->data(), index, with_data(g, old, host, at, begin, end));
    if (plan.kind == WriteKind::kAllocate && !g.external_data) {
      metadata_.free_entry_later(old.value, FreeReason::kNever);
    }
    host += g.cluster_size;
  }
  metadata_.piece_changed(**piece, true);
  co_return Result<void>();
}

Task<Result<void>> Image::flush() {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  if (metadata_.clean()) co_return Result<void>();
  BB_CO_TRY(co_await metadata_.sync_ahead());
  MutexGuard guard = co_await metadata_.lock();
  co_return co_await metadata_.write_back();
}

}  // namespace blockbed::qcow2
