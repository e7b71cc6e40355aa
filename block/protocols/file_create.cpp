#include "block/protocols/file_create.h"

#include <fmt/format.h>

#include "block/protocols/file_resize.h"
#include "block/protocols/image_locks.h"
#include "block/runtime/env.h"
#include "schema/blockdev_create.h"

namespace blockbed {

namespace {

Expected<FilePreallocation> preallocation_of(const schema::BlockdevCreateOptionsFile& options) {
  if (!options.preallocation) return FilePreallocation::kOff;
  switch (*options.preallocation) {
    case schema::PreallocMode::kOff:
      return FilePreallocation::kOff;
    case schema::PreallocMode::kFalloc:
      return FilePreallocation::kFalloc;
    case schema::PreallocMode::kFull:
      return FilePreallocation::kFull;
    case schema::PreallocMode::kMetadata:
      break;
  }
  return fail("Unsupported preallocation mode: metadata");
}

Task<Expected<void>> fill_file(File& file, const std::string& filename, uint64_t size,
                               FilePreallocation preallocation) {
  ImageLocks locks(file, filename);
  const Permissions needs = Permission::kWrite | Permission::kResize;
  const Permissions shares = Permissions::all() - Permission::kResize;
  BB_CO_TRY(locks.prepare(needs, shares));
  locks.commit(needs, shares);
  if (auto emptied = co_await file.truncate(0, FilePreallocation::kOff); !emptied) {
    co_return fail(fmt::format("Could not resize file: {}", strerror_text(emptied.error())));
  }
  if (size > static_cast<uint64_t>(INT64_MAX)) {
    co_return fail(fmt::format("Could not resize file: {}", strerror_text(EINVAL)));
  }
  if (auto sized = co_await resize_file(file, size, preallocation); !sized) {
    co_return fail(fmt::format("Could not resize file: {}", strerror_text(sized.error())));
  }
  co_return Expected<void>();
}

}  // namespace

Task<Expected<void>> create_file(Env& env, const schema::BlockdevCreateOptionsFile& options,
                                 std::function<Task<void>()> opened) {
  // It is taken and not used: only its range is looked at.
  if (options.extent_size_hint.value_or(0) > UINT32_MAX) {
    co_return fail("Extent size hint is too large");
  }
  FileOpenOptions open_options;
  open_options.write = true;
  open_options.create = true;
  auto file = co_await env.open_file(options.filename, open_options);
  if (!file) {
    co_return fail(
        fmt::format("Could not create '{}': {}", options.filename, strerror_text(file.error())));
  }
  if (opened) co_await opened();
  // Asked only now: the file exists afterwards whatever else is wrong, as clients know it.
  auto preallocation = preallocation_of(options);
  Expected<void> result =
      preallocation ? co_await fill_file(**file, options.filename, options.size, *preallocation)
                    : Expected<void>(fail(preallocation.error()));
  auto closed = co_await (*file)->close();
  if (result && !closed) {
    result = fail(
        fmt::format("Could not close '{}': {}", options.filename, strerror_text(closed.error())));
  }
  co_return result;
}

}  // namespace blockbed
