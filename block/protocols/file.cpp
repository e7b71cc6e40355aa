#include "block/protocols/file.h"

#include <fmt/format.h>

#include "block/graph/reopen.h"
#include "block/protocols/file_resize.h"
#include "block/runtime/env.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

FileAio aio_of(const schema::BlockdevOptionsFile& options) {
  if (!options.aio) return FileAio::kThreads;
  switch (*options.aio) {
    case schema::BlockdevAioOptions::kThreads:
      return FileAio::kThreads;
    case schema::BlockdevAioOptions::kNative:
      return FileAio::kNative;
    case schema::BlockdevAioOptions::kIoUring:
      return FileAio::kIoUring;
  }
  return FileAio::kThreads;
}

constexpr const char* kNativeNeedsDirect =
    "aio=native was specified, but it requires cache.direct=on, which was not specified.";

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> FileDriver::open(OpenContext& context,
                                                         const schema::BlockdevOptions& options,
                                                         bool device) {
  const auto& file_options = std::get<schema::BlockdevOptionsFile>(options.u);
  const std::string& filename = file_options.filename;
  if (filename.empty()) {
    co_return fail(
        fmt::format("The '{}' block driver requires a file name", device ? "host_device" : "file"));
  }
  // There are no such managers here.
  if (file_options.pr_manager) {
    co_return fail(
        fmt::format("No persistent reservation manager with id '{}'", *file_options.pr_manager));
  }
  FileOpenOptions open_options;
  open_options.direct = context.flags().cache_direct;
  open_options.aio = aio_of(file_options);
  open_options.write = !context.flags().read_only;
  if (open_options.aio == FileAio::kNative && !open_options.direct) {
    co_return fail(kNativeNeedsDirect);
  }

  auto opened =
      co_await open_as(context.env(), filename, open_options, context.flags().auto_read_only);
  if (!opened) {
    co_return fail(fmt::format("Could not open '{}': {}", filename, strerror_text(opened.error())));
  }
  const FileKind kind = opened->file->kind();
  const bool right_kind = device
                              ? kind == FileKind::kBlockDevice || kind == FileKind::kCharacterDevice
                              : kind == FileKind::kRegular;
  if (!right_kind) {
    (void)co_await opened->file->close();
    co_return fail(
        device ? fmt::format(
                     "'host_device' driver requires '{}' to be either a character or block device",
                     filename)
               : fmt::format("'file' driver requires '{}' to be a regular file", filename));
  }
  const bool locking = !file_options.locking || *file_options.locking != schema::OnOffAuto::kOff;
  co_return std::make_unique<FileDriver>(context.node(), device, filename, std::move(opened->file),
                                         opened->with, locking, opened->write_refused);
}

Task<Result<FileDriver::Opened>> FileDriver::open_as(Env& env, const std::string& filename,
                                                     FileOpenOptions options, bool auto_read_only) {
  Opened opened;
  auto file = co_await env.open_file(filename, options);
  if (!file && options.write && auto_read_only) {
    const int number = file.error().number();
    if (number == EACCES || number == EPERM || number == EROFS || number == EISDIR) {
      opened.write_refused = file.error();
      options.write = false;
      file = co_await env.open_file(filename, options);
    }
  }
  if (!file) co_return io_error(file.error());
  opened.file = std::move(*file);
  opened.with = options;
  co_return opened;
}

FileDriver::FileDriver(Node& node, bool device, std::string filename, std::unique_ptr<File> file,
                       FileOpenOptions opened_with, bool locking,
                       std::optional<Errno> write_refused)
    : Driver(node),
      device_(device),
      filename_(std::move(filename)),
      file_(std::move(file)),
      opened_with_(opened_with),
      write_refused_(write_refused) {
  if (locking) locks_.emplace(*file_, filename_);
}

FileDriver::~FileDriver() = default;

std::span<const std::string_view> FileDriver::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {"x-check-cache-dropped"};
  return kChangeable;
}

Task<Expected<void>> FileDriver::reopen_prepare(const ReopenState& state) {
  FileOpenOptions options = opened_with_;
  options.write = !state.flags.read_only;
  options.direct = state.flags.cache_direct;
  if (options.aio == FileAio::kNative && !options.direct) co_return fail(kNativeNeedsDirect);
  if (options.write == opened_with_.write && options.direct == opened_with_.direct) {
    co_return Expected<void>();
  }
  auto opened = co_await open_as(node().env(), filename_, options, state.flags.auto_read_only);
  if (!opened) {
    co_return fail(
        fmt::format("Could not open '{}': {}", filename_, strerror_text(opened.error())));
  }
  other_.emplace(std::move(*opened));
  if (locks_) other_->locks.emplace(*other_->file, filename_);
  co_return Expected<void>();
}

void FileDriver::reopen_commit() {
  if (!other_) return;
  std::swap(file_, other_->file);
  opened_with_ = other_->with;
  write_refused_ = other_->write_refused;
  if (other_->locks) locks_.emplace(*other_->locks);
}

Task<void> FileDriver::reopen_finish() {
  if (!other_) co_return;
  // What was written through it is on its way to the disk as it was before.
  (void)co_await other_->file->close();
  other_.reset();
}

Task<void> FileDriver::close() {
  // Its errors were those of writes and flushes before.
  (void)co_await file_->close();
}

Task<Result<void>> FileDriver::read(uint64_t offset, IoVector buffers, RequestFlags) {
  if (!buffers.aligned_to(file_->alignment())) [[unlikely]] {
    return read_by_bounce(offset, std::move(buffers));
  }
  return file_->read(offset, std::move(buffers));
}

Task<Result<void>> FileDriver::read_by_bounce(uint64_t offset, IoVector buffers) {
  Buffer bounce(buffers.size());
  BB_CO_TRY(co_await file_->read(offset, bounce.io()));
  buffers.copy_from(bounce.data());
  co_return Result<void>();
}

Task<Result<void>> FileDriver::write(uint64_t offset, IoVector buffers, RequestFlags) {
  if (!buffers.aligned_to(file_->alignment())) [[unlikely]] {
    return write_by_bounce(offset, std::move(buffers));
  }
  return file_->write(offset, std::move(buffers));
}

Task<Result<void>> FileDriver::write_by_bounce(uint64_t offset, IoVector buffers) {
  Buffer bounce(buffers.size());
  buffers.copy_to(bounce.data());
  co_return co_await file_->write(offset, bounce.io());
}

Task<Result<void>> FileDriver::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  return file_->zero(offset, length, flags.may_unmap);
}

Task<Result<void>> FileDriver::discard(uint64_t offset, uint64_t length) {
  Result<void> result = co_await file_->discard(offset, length);
  if (result) {
    ++discards_.ok;
    discards_.bytes_ok += length;
  } else {
    ++discards_.failed;
  }
  co_return result;
}

Task<Result<void>> FileDriver::flush_to_disk() {
  if (lost_writes_) co_return io_error(*lost_writes_);
  Result<void> result = co_await file_->flush();
  if (!result && !opened_with_.direct) lost_writes_ = result.error();
  co_return result;
}

Task<void> FileDriver::expect_flush() { return file_->expect_flush(); }

Task<Result<BlockStatus>> FileDriver::block_status(uint64_t offset, uint64_t length,
                                                   bool want_zero) {
  BlockStatus status;
  status.length = length;
  status.allocated = true;
  status.offset = offset;
  status.file = &node();
  if (!want_zero) {
    status.data = true;
    co_return status;
  }
  auto extent = co_await file_->extent(offset, length);
  if (!extent) {
    // A file system that cannot tell has data everywhere.
    status.data = true;
    co_return status;
  }
  status.length = extent->length;
  status.data = extent->data;
  status.zero = !extent->data;
  co_return status;
}

Task<Result<void>> FileDriver::copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                             uint64_t target_offset, RequestFlags flags) {
  return target.copy_range_from(*file_, offset, target_offset, length, flags);
}

Task<Result<void>> FileDriver::copy_range_from(File& source, uint64_t source_offset,
                                               uint64_t offset, uint64_t length, RequestFlags) {
  return file_->copy_from(source, source_offset, offset, length);
}

Task<Result<uint64_t>> FileDriver::length() {
  auto info = co_await file_->info();
  if (!info) co_return io_error(info.error());
  co_return info->size;
}

Task<Result<std::optional<uint64_t>>> FileDriver::allocated_size() {
  auto info = co_await file_->info();
  if (!info) co_return io_error(info.error());
  co_return info->allocated;
}

Task<Expected<void>> FileDriver::truncate(uint64_t length, TruncateOptions options) {
  if (device_) {
    if (options.preallocation != Preallocation::kOff) {
      co_return fail(fmt::format("Preallocation mode '{}' unsupported for this non-regular file",
                                 preallocation_name(options.preallocation)));
    }
    auto now = co_await this->length();
    if (!now)
      co_return fail(fmt::format("Failed to inquire device size: {}", strerror_text(now.error())));
    if (options.exact && length != *now) co_return fail("Cannot resize device files");
    if (length > *now) co_return fail("Cannot grow device files");
    co_return Expected<void>();
  }
  FilePreallocation preallocation = FilePreallocation::kOff;
  switch (options.preallocation) {
    case Preallocation::kOff:
      break;
    case Preallocation::kFalloc:
      preallocation = FilePreallocation::kFalloc;
      break;
    case Preallocation::kFull:
      preallocation = FilePreallocation::kFull;
      break;
    case Preallocation::kMetadata:
      co_return fail(fmt::format("Unsupported preallocation mode: {}",
                                 preallocation_name(options.preallocation)));
  }
  if (preallocation != FilePreallocation::kOff) {
    auto now = co_await this->length();
    if (now && length < *now) co_return fail("Cannot use preallocation for shrinking files");
  }
  if (auto resized = co_await resize_file(*file_, length, preallocation); !resized) {
    // A file that cannot be so long is told before anything is written.
    const bool written =
        preallocation == FilePreallocation::kFull && resized.error().number() != EFBIG;
    const char* what = preallocation == FilePreallocation::kFalloc
                           ? "Could not preallocate new data"
                       : written ? "Could not write zeros for preallocation"
                                 : "Could not resize file";
    co_return fail(fmt::format("{}: {}", what, strerror_text(resized.error())));
  }
  co_return Expected<void>();
}

Permissions FileDriver::shared(Permissions shares) const {
  return node().flags().force_share ? Permissions::all() : shares;
}

Expected<void> FileDriver::prepare_permissions(Permissions needs, Permissions shares) {
  const bool writes = needs.has(Permission::kWrite) || needs.has(Permission::kWriteUnchanged) ||
                      needs.has(Permission::kResize);
  const std::optional<Errno>& refused = other_ ? other_->write_refused : write_refused_;
  if (writes && refused) {
    return fail(fmt::format("Could not open '{}': {}", filename_, strerror_text(*refused)));
  }
  if (!locks_) return {};
  BB_TRY(locks_->prepare(needs, shared(shares)));
  if (!other_) return {};
  // Locks belong to an open file, and two of one program see each other like strangers: the old one
  // has asked the others, so the new one need not, and has the same until the old is closed.
  Expected<void> taken = other_->locks->take_over(needs, shared(shares));
  if (!taken) locks_->abort();
  return taken;
}

void FileDriver::commit_permissions(Permissions needs, Permissions shares) {
  if (!locks_) return;
  (other_ ? *other_->locks : *locks_).commit(needs, shared(shares));
}

void FileDriver::abort_permissions() {
  if (locks_) locks_->abort();
}

void FileDriver::refresh_limits(BlockLimits& limits) const {
  limits.request_alignment = file_->alignment();
  limits.memory_alignment = file_->alignment();
}

void FileDriver::gather_filename_options(json::Object& options) const {
  options.set("filename", filename_);
}

}  // namespace blockbed
