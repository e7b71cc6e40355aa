#include "block/protocols/file_resize.h"

#include <algorithm>

namespace blockbed {

namespace {

// No storage in use needs more for direct I/O.
constexpr uint64_t kFirstBlock = 4096;

}  // namespace

Task<Result<void>> resize_file(File& file, uint64_t length, FilePreallocation preallocation) {
  bool was_empty = false;
  if (preallocation == FilePreallocation::kOff && length > 0) {
    auto info = co_await file.info();
    was_empty = info && info->kind == FileKind::kRegular && info->size == 0;
  }
  BB_CO_TRY(co_await file.truncate(length, preallocation));
  if (!was_empty) co_return Result<void>();
  const uint64_t shown = std::min(length, kFirstBlock);
  if (const uint64_t first = shown - shown % file.alignment(); first > 0) {
    Buffer zeroes = Buffer::zeroed(first);
    // A courtesy: the file has its length without it.
    (void)co_await file.write(0, zeroes.io(0, first));
  }
  co_return Result<void>();
}

}  // namespace blockbed
