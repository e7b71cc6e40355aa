// Copies inside the host: the image finds where the bytes are, or shall be, and the files do the
// rest. Nobody sees the bytes.
#include <algorithm>

#include "block/formats/qcow2/driver.h"

namespace blockbed::qcow2 {

Task<Result<void>> Qcow2Driver::copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                              uint64_t target_offset, RequestFlags flags) {
  // What was found stays where it is until it was copied.
  Metadata::RequestGuard guard(image_->metadata());
  Edge& data = (data_ ? *data_ : *file_).edge();
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done;
    const auto found = co_await image_->status(at, length - done);
    if (!found) co_return io_error(found.error());
    uint64_t part = found->length;
    switch (found->kind) {
      case Kind::kData:
        BB_CO_TRY(
            co_await data.copy_range_to(*found->host, part, target, target_offset + done, flags));
        break;
      case Kind::kUnallocated:
        if (const uint64_t there = std::min(backing_.length(), image_->length()); at < there) {
          part = std::min(part, there - at);
          BB_CO_TRY(co_await node().cow_edge()->copy_range_to(at, part, target,
                                                              target_offset + done, flags));
          break;
        }
        [[fallthrough]];
      case Kind::kZero:
        BB_CO_TRY(co_await target.zero(target_offset + done, part, flags));
        break;
      case Kind::kCompressed:
      case Kind::kInvalid:
        co_return io_error(ENOTSUP);
    }
    done += part;
  }
  co_return Result<void>();
}

Task<Result<void>> Qcow2Driver::copy_range_from(File& source, uint64_t source_offset,
                                                uint64_t offset, uint64_t length, RequestFlags) {
  return image_->copy_from(source, source_offset, offset, length);
}

}  // namespace blockbed::qcow2
