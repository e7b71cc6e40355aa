#include "block/exports/nbd/request_handler.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "block/exports/nbd/nbd_export.h"

namespace blockbed::nbd {

namespace {

Verdict refuse(std::string text) { return {Verdict::Kind::kRefuse, std::move(text)}; }

bool changes_data(Command command) {
  return command == Command::kWrite || command == Command::kWriteZeroes ||
         command == Command::kTrim;
}

bool has_bounded_length(Command command) {
  return command == Command::kRead || command == Command::kWrite || command == Command::kCache;
}

// FUA means nothing to some commands and is allowed with all of them.
uint16_t allowed_flags(Command command, bool structured) {
  switch (command) {
    case Command::kRead:
      return kFlagFua | (structured ? kFlagDf : 0);
    case Command::kWriteZeroes:
      return kFlagFua | kFlagNoHole | kFlagFastZero;
    case Command::kBlockStatus:
      return kFlagFua | kFlagReqOne;
    default:
      return kFlagFua;
  }
}

RequestFlags fua_of(const RequestSlot& slot) {
  return RequestFlags().with_fua(slot.has_flag(kFlagFua));
}

// A read that may have holes in it: what is known to be zero is neither read nor sent.
Task<void> read_in_pieces(NbdExport& target, RequestSlot& slot) {
  struct Run {
    uint32_t offset;
    uint32_t length;
    bool hole;
  };
  const Request& request = slot.request();
  std::vector<Run> runs;
  uint32_t position = 0;
  while (position < request.length) {
    const uint32_t left = request.length - position;
    if (runs.size() >= kMaxPieces) {
      runs.back().length += left;
      runs.back().hole = false;
      break;
    }
    const Result<ChainStatus> status =
        co_await target.status(request.offset + position, left, true);
    if (!status) {
      slot.answer_error(status.error().number(), fmt::format("unable to check for holes: {}",
                                                             strerror_text(status.error())));
      co_return;
    }
    const auto length = static_cast<uint32_t>(std::min<uint64_t>(status->status.length, left));
    // Nothing is known about a run of no length: the rest is read.
    const bool hole = status->status.zero && length > 0;
    const uint32_t run = length > 0 ? length : left;
    if (!runs.empty() && runs.back().hole == hole) {
      runs.back().length += run;
    } else {
      runs.push_back({position, run, hole});
    }
    position += run;
  }
  for (const Run& run : runs) {
    if (run.hole) {
      slot.add_hole(run.offset, run.length);
      continue;
    }
    slot.reserve_payload();
    const IoVector into(slot.payload().data() + run.offset, run.length);
    const Result<void> done = co_await target.read(request.offset + run.offset, into);
    if (!done) {
      slot.answer_error(done.error().number(), "reading from file failed");
      co_return;
    }
    slot.add_data(run.offset, run.length);
  }
  slot.finish_pieces();
}

uint32_t extent_flags(uint32_t context, const ChainStatus& answer) {
  if (context == MetaContexts::kDepthId) {
    return answer.status.allocated ? static_cast<uint32_t>(answer.depth) : 0;
  }
  return (answer.status.data ? 0 : kStateHole) | (answer.status.zero ? kStateZero : 0);
}

// A map whose tables are in memory never waits, so others get their turn after so many questions.
constexpr uint32_t kQuestionsATurn = 512;

// One context of a block status request: neighbours that look the same are one extent.
Task<Result<void>> add_status_of(NbdExport& target, RequestSlot& slot, uint32_t context) {
  const Request& request = slot.request();
  const std::size_t limit = slot.has_flag(kFlagReqOne) ? 1 : kMaxStatusExtents;
  std::vector<Extent> extents;
  uint32_t position = 0;
  uint32_t questions = 0;
  while (position < request.length) {
    if (++questions % kQuestionsATurn == 0) {
      co_await target.backend().graph().executor().yield();
    }
    const uint32_t left = request.length - position;
    const Result<ChainStatus> answer =
        co_await target.status(request.offset + position, left, context == MetaContexts::kBaseId);
    if (!answer) co_return io_error(answer.error());
    const auto length = static_cast<uint32_t>(std::min<uint64_t>(answer->status.length, left));
    if (length == 0) break;
    const uint32_t flags = extent_flags(context, *answer);
    if (!extents.empty() && extents.back().flags == flags) {
      extents.back().length += length;
    } else if (extents.size() == limit) {
      break;
    } else {
      extents.push_back({length, flags});
    }
    position += length;
  }
  if (extents.empty()) co_return io_error(EIO);
  slot.add_status(context, extents);
  co_return {};
}

void add_marks_of(const DirtyBitmap& bitmap, RequestSlot& slot, uint32_t context) {
  const Request& request = slot.request();
  const std::size_t limit = slot.has_flag(kFlagReqOne) ? 1 : kMaxStatusExtents;
  const uint64_t end = request.offset + request.length;
  std::vector<Extent> extents;
  for (uint64_t at = request.offset; at < end && extents.size() < limit;) {
    // The exported disk may be longer than the one that has the bitmap.
    const uint64_t next = bitmap.next_dirty(at);
    const bool dirty = next == at && at < bitmap.length();
    uint64_t stop = end;
    if (dirty) {
      stop = std::min(end, bitmap.next_clean(at));
    } else if (next > at && next < bitmap.length()) {
      stop = std::min(end, next);
    }
    extents.push_back({static_cast<uint32_t>(stop - at), dirty ? kStateDirty : 0});
    at = stop;
  }
  slot.add_status(context, extents);
}

Task<void> block_status(NbdExport& target, const ClientTerms& terms, RequestSlot& slot) {
  for (const uint32_t context : {MetaContexts::kBaseId, MetaContexts::kDepthId}) {
    if (!(context == MetaContexts::kBaseId ? terms.contexts.base_allocation
                                           : terms.contexts.allocation_depth))
      continue;
    const Result<void> added = co_await add_status_of(target, slot, context);
    if (!added) {
      slot.answer_error(added.error().number(), "can't get block status");
      co_return;
    }
  }
  const std::vector<ExportedBitmap>& bitmaps = target.settings().bitmaps;
  for (std::size_t i = 0; i < terms.contexts.bitmaps.size(); ++i) {
    if (!terms.contexts.bitmaps[i]) continue;
    add_marks_of(*bitmaps[i].bitmap, slot, static_cast<uint32_t>(MetaContexts::kFirstBitmapId + i));
  }
  slot.finish_status();
}

// Does what a copy-on-read layer does on the way of a read: where clients may write, what comes
// from layers below is kept in the image. The bytes themselves go nowhere.
Task<Result<void>> prefetch(NbdExport& target, uint64_t offset, uint32_t length) {
  constexpr uint32_t kStep = uint32_t{1} << 20;
  const Buffer scratch(std::min(length, kStep));
  RequestFlags flags;
  flags.copy_on_read = target.settings().writable;
  flags.prefetch = true;
  while (length > 0) {
    const uint32_t part = std::min(length, kStep);
    BB_CO_TRY(co_await target.read(offset, scratch.io(0, part), flags));
    offset += part;
    length -= part;
  }
  co_return {};
}

void answer(RequestSlot& slot, const Result<void>& done, std::string_view text_of_failure) {
  if (done) {
    slot.answer_success();
  } else {
    slot.answer_error(done.error().number(), text_of_failure);
  }
}

}  // namespace

Verdict judge(const Request& request, const ClientTerms& terms) {
  if (request.magic != kRequestMagic) {
    return {Verdict::Kind::kRefuseAndClose,
            fmt::format("invalid magic (got 0x{:x})", request.magic)};
  }
  const auto command = static_cast<Command>(request.type);
  if (command == Command::kDisconnect) return {Verdict::Kind::kDisconnect, {}};
  if (has_bounded_length(command) && request.length > kMaxPayload) {
    return {command == Command::kWrite ? Verdict::Kind::kRefuseAndClose : Verdict::Kind::kRefuse,
            fmt::format("len ({} ) is larger than max len ({})", request.length, kMaxPayload)};
  }
  if (!terms.writable && changes_data(command)) return refuse("Export is read-only");
  if (request.offset > terms.size || request.length > terms.size - request.offset) {
    return refuse(fmt::format("operation past EOF; From: {}, Len: {}, Size: {}", request.offset,
                              request.length, terms.size));
  }
  if ((request.flags & ~allowed_flags(command, terms.structured)) != 0) {
    return refuse(fmt::format("unsupported flags for command {} (got 0x{:x})",
                              command_name(request.type), request.flags));
  }
  if (command > Command::kBlockStatus) {
    return refuse(fmt::format("invalid request type ({}) received", request.type));
  }
  if (command == Command::kBlockStatus) {
    if (request.length == 0) return refuse("need non-zero length");
    if (terms.contexts.empty()) return refuse("CMD_BLOCK_STATUS not negotiated");
  }
  return {};
}

Task<void> serve(NbdExport& target, const ClientTerms& terms, RequestSlot& slot,
                 ReplyQueue& replies) {
  const Request& request = slot.request();
  const bool nothing = request.length == 0 && slot.command() != Command::kFlush;
  switch (nothing ? Command::kDisconnect : slot.command()) {
    case Command::kDisconnect:
      slot.answer_success();
      break;
    case Command::kRead: {
      // What a device is asked to read, it reads.
      const bool may_have_holes =
          terms.structured && !slot.has_flag(kFlagDf) && target.guest() == nullptr;
      if (may_have_holes && request.length >= kHoleQueryMinimum) {
        co_await read_in_pieces(target, slot);
        break;
      }
      slot.reserve_payload();
      const Result<void> done = co_await target.read(request.offset, IoVector(slot.payload()));
      if (done) {
        slot.answer_read();
      } else {
        slot.answer_error(done.error().number(), "reading from file failed");
      }
      break;
    }
    case Command::kWrite:
      answer(slot, co_await target.write(request.offset, IoVector(slot.payload()), fua_of(slot)),
             "writing to file failed");
      break;
    case Command::kFlush:
      answer(slot, co_await target.flush(), "flush failed");
      break;
    case Command::kTrim: {
      Result<void> done = co_await target.discard(request.offset, request.length);
      if (done && slot.has_flag(kFlagFua)) done = co_await target.flush();
      answer(slot, done, "discard failed");
      break;
    }
    case Command::kCache:
      answer(slot, co_await prefetch(target, request.offset, request.length),
             "caching data failed");
      break;
    case Command::kWriteZeroes:
      answer(slot,
             co_await target.zero(request.offset, request.length,
                                  fua_of(slot)
                                      .with_may_unmap(!slot.has_flag(kFlagNoHole))
                                      .with_no_fallback(slot.has_flag(kFlagFastZero))),
             "writing to file failed");
      break;
    case Command::kBlockStatus:
      co_await block_status(target, terms, slot);
      break;
  }
  replies.push(slot);
}

}  // namespace blockbed::nbd
