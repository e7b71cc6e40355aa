// Copies inside the host into an image. What is around them in their clusters passes through
// memory.
#include "block/formats/qcow2/image.h"

namespace blockbed::qcow2 {

Task<Result<void>> Image::copy_from(File& source, uint64_t source_offset, uint64_t offset,
                                    uint64_t length) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  for (uint64_t done = 0; done < length;) {
    auto some =
        co_await write_some(offset + done, Payload(source, source_offset + done, length - done));
    if (!some) co_return io_error(some.error());
    done += *some;
  }
  co_return Result<void>();
}

Task<Result<void>> Image::copy_data(uint64_t host, const Payload& payload) {
  BB_CO_TRY(co_await check_place(host, payload.size));
  co_return co_await metadata_.data().copy_from(*payload.source, payload.source_offset, host,
                                                payload.size);
}

Task<Result<void>> Image::copy_with_cow(const WritePlan& plan, const Payload& payload) {
  BB_CO_TRY(co_await copy_data(plan.host, payload));
  uint64_t host = plan.host - plan.head.length();
  for (const CowPart* part : {&plan.head, &plan.tail}) {
    Buffer bytes;
    auto needed = co_await fetch_cow(*part, plan.fresh, bytes);
    if (!needed) co_return io_error(needed.error());
    if (*needed == CowNeed::kWrite) {
      co_await metadata_.file().debug_event(DebugEvent::kCowWrite);
      BB_CO_TRY(co_await write_data(host, bytes.io()));
    }
    host = plan.host + plan.length;
  }
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
