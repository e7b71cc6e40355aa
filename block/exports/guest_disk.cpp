#include "block/exports/guest_disk.h"

#include "block/graph/node.h"
#include "block/runtime/event_sink.h"
#include "schema/block_event.h"

namespace blockbed {

ErrorAction GuestDisk::meet_error(bool is_read, Errno error) {
  OnError policy = is_read ? device_.on_read_error : device_.on_write_error;
  if (is_read && policy == OnError::kAuto) policy = OnError::kReport;
  const ErrorAction action = action_of(policy, error);
  if (action == ErrorAction::kStop && device_.keeps_io_status()) {
    note_error(device_.io_status, error);
  }
  schema::events::BlockIoError event;
  event.device = device_.name();
  if (device_.node() != nullptr) event.node_name = device_.node()->name();
  event.operation = is_read ? schema::IoOperationType::kRead : schema::IoOperationType::kWrite;
  event.action = to_schema(action);
  if (device_.keeps_io_status()) event.nospace = error.number() == ENOSPC;
  event.reason = strerror_text(error);
  device_.graph().events().emit(event);
  if (action == ErrorAction::kStop) guest_.stop_on_error();
  return action;
}

template <typename Attempt>
Task<Result<void>> GuestDisk::carry_out(AccountedKind kind, uint64_t bytes, Attempt attempt) {
  for (;;) {
    while (!guest_.running() && !cut_off_) co_await guest_.resumed().wait();
    if (cut_off_) co_return io_error(ESHUTDOWN);
    const int64_t begun = device_.accounting().begin();
    Result<void> done = co_await attempt();
    if (done) {
      device_.accounting().done(kind, bytes, begun);
      co_return done;
    }
    device_.accounting().failed(kind, begun);
    if (cut_off_) co_return done;
    switch (meet_error(kind == AccountedKind::kRead, done.error())) {
      case ErrorAction::kReport:
        co_return done;
      case ErrorAction::kIgnore:
        co_return Result<void>();
      case ErrorAction::kStop:
        break;
    }
  }
}

Task<Result<void>> GuestDisk::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  // An error that is ignored leaves them so.
  if (device_.on_read_error == OnError::kIgnore) buffers.fill(0);
  const uint64_t bytes = buffers.size();
  return carry_out(AccountedKind::kRead, bytes,
                   [this, offset, buffers = std::move(buffers), flags] {
                     return device_.read(offset, buffers, flags);
                   });
}

Task<Result<void>> GuestDisk::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  const uint64_t bytes = buffers.size();
  return carry_out(AccountedKind::kWrite, bytes,
                   [this, offset, buffers = std::move(buffers), flags] {
                     return device_.write(offset, buffers, flags);
                   });
}

Task<Result<void>> GuestDisk::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  return carry_out(AccountedKind::kWrite, length,
                   [this, offset, length, flags] { return device_.zero(offset, length, flags); });
}

Task<Result<void>> GuestDisk::discard(uint64_t offset, uint64_t length) {
  return carry_out(AccountedKind::kUnmap, length,
                   [this, offset, length] { return device_.discard(offset, length); });
}

Task<Result<void>> GuestDisk::flush() {
  return carry_out(AccountedKind::kFlush, 0, [this] { return device_.flush(); });
}

void GuestDisk::cut_off() {
  cut_off_ = true;
  guest_.resumed().wake_all();
}

}  // namespace blockbed
