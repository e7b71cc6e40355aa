#include "block/formats/raw.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "block/graph/medium.h"
#include "block/graph/node.h"
#include "block/graph/option_text.h"
#include "block/graph/reopen.h"
#include "schema/blockdev_options.h"

namespace blockbed {

namespace {

constexpr uint64_t kSector = 512;

Expected<void> check_window(uint64_t file_length, RawDriver::Window window) {
  const auto& [offset, size] = window;
  if (offset > file_length) {
    return fail(fmt::format("Offset ({}) cannot be greater than size of the containing file ({})",
                            offset, file_length));
  }
  if (!size) return {};
  if (*size > file_length - offset) {
    return fail(fmt::format(
        "The sum of offset ({}) and size ({}) has to be smaller or equal to the  actual size of "
        "the containing file ({})",
        offset, *size, file_length));
  }
  if (*size % kSector != 0) {
    return fail(fmt::format("Specified size is not multiple of {}", kSector));
  }
  return {};
}

Expected<RawDriver::Window> window_of(const schema::BlockdevOptionsRaw& options) {
  RawDriver::Window window;
  auto offset = size_option("offset", options.offset);
  if (!offset) return fail(std::move(offset).error());
  window.offset = offset->value_or(0);
  auto size = size_option("size", options.size);
  if (!size) return fail(std::move(size).error());
  window.size = *size;
  return window;
}

// Without a window this is as good as a filter; with one, others may use the rest of the file.
bool is_part(const RawDriver::Window& window) {
  return window.offset != 0 || window.size.has_value();
}

Task<Expected<void>> check_within(Node& file, RawDriver::Window window) {
  if (!is_part(window) && !lost_its_medium(file)) co_return Expected<void>();
  auto length = co_await file.refresh_length();
  if (!length) {
    co_return fail(fmt::format("Could not get image size: {}", strerror_text(length.error())));
  }
  co_return check_window(*length, window);
}

}  // namespace

int RawDriver::probe(const ProbeInput&) {
  // Anything can be raw; whoever knows better wins.
  return 1;
}

std::string RawDriver::probing_warning(const std::string& filename) {
  return fmt::format(
      "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
      "         Automatically detecting the format is dangerous for raw images, write operations "
      "on block 0 will be restricted.\n"
      "         Specify the 'raw' format explicitly to remove the restrictions.\n",
      filename);
}

Task<Expected<std::unique_ptr<Driver>>> RawDriver::open(OpenContext& context,
                                                        const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsRaw>(options.u);
  auto window = window_of(own);
  if (!window) co_return fail(std::move(window).error());
  const ChildRoles roles =
      is_part(*window) ? ChildRole::kData | ChildRole::kPrimary : kFilteredRoles;
  auto file = co_await context.open_child("file", roles);
  if (!file) co_return fail(std::move(file).error());
  BB_CO_TRY(co_await check_within(*(*file)->node(), *window));
  co_return std::make_unique<RawDriver>(context.node(), **file, *window);
}

bool RawDriver::shows_part_of_child() const { return is_part(window_); }

// --- data path

Task<Result<void>> RawDriver::read(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (file_.node()->debug_listener() == nullptr) [[likely]] {
    return file_.read(window_.offset + offset, std::move(buffers), flags);
  }
  return read_debugged(offset, std::move(buffers), flags);
}

Task<Result<void>> RawDriver::read_debugged(uint64_t offset, IoVector buffers, RequestFlags flags) {
  co_await file_.debug_event(DebugEvent::kReadAio);
  co_return co_await file_.read(window_.offset + offset, std::move(buffers), flags);
}

Result<void> RawDriver::check_inside(uint64_t offset, uint64_t length) const {
  if (!window_.size || (offset <= *window_.size && length <= *window_.size - offset)) return {};
  return io_error(ENOSPC);
}

Result<void> RawDriver::check_first_sector(uint64_t offset, const IoVector& buffers) const {
  if (offset >= kSector) return {};
  // limits() makes the node hand over whole sectors.
  if (offset != 0 || buffers.size() < kSector) return io_error(EINVAL);
  std::array<std::byte, kSector> head;
  buffers.slice(0, kSector).copy_to(head.data());
  const ProbeInput input{head, {}};
  for (const DriverEntry& entry : node().graph().drivers().entries()) {
    if (entry.probe != nullptr && entry.name != kName && entry.probe(input) > 1) {
      return io_error(EPERM);
    }
  }
  return {};
}

Task<Result<void>> RawDriver::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  if (node().probed()) [[unlikely]] {
    if (auto allowed = check_first_sector(offset, buffers); !allowed) {
      co_return io_error(allowed.error());
    }
  }
  BB_CO_TRY(check_inside(offset, buffers.size()));
  co_await file_.debug_event(DebugEvent::kWriteAio);
  co_return co_await file_.write(window_.offset + offset, std::move(buffers), flags);
}

Task<Result<void>> RawDriver::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  BB_CO_TRY(check_inside(offset, length));
  co_return co_await file_.zero(window_.offset + offset, length, flags);
}

Task<Result<void>> RawDriver::discard(uint64_t offset, uint64_t length) {
  return file_.discard(window_.offset + offset, length);
}

Task<Result<BlockStatus>> RawDriver::block_status(uint64_t offset, uint64_t length, bool) {
  BlockStatus status;
  status.length = length;
  status.offset = window_.offset + offset;
  status.file = file_.node();
  status.passes_through = true;
  co_return status;
}

Task<Result<void>> RawDriver::copy_range_to(uint64_t offset, uint64_t length, Edge& target,
                                            uint64_t target_offset, RequestFlags flags) {
  return file_.copy_range_to(window_.offset + offset, length, target, target_offset, flags);
}

Task<Result<void>> RawDriver::copy_range_from(File& source, uint64_t source_offset, uint64_t offset,
                                              uint64_t length, RequestFlags flags) {
  // The first sector has to be looked at.
  if (node().probed()) co_return io_error(ENOTSUP);
  BB_CO_TRY(check_inside(offset, length));
  co_return co_await file_.copy_range_from(source, source_offset, window_.offset + offset, length,
                                           flags);
}

// --- size

bool RawDriver::length_varies() const {
  return !window_.size && file_.node()->driver().length_varies();
}

Task<Result<uint64_t>> RawDriver::length() {
  if (window_.size) co_return *window_.size;
  auto length = co_await file_.node()->refresh_length();
  if (!length) co_return io_error(length.error());
  if (*length < window_.offset) co_return io_error(EIO);
  co_return *length - window_.offset;
}

Task<Expected<void>> RawDriver::truncate(uint64_t length, TruncateOptions options) {
  if (window_.size) co_return fail("Cannot resize fixed-size raw disks");
  // What no file can be as long as is the file's to tell.
  if (length > std::numeric_limits<int64_t>::max() - window_.offset)
    co_return fail("Disk size too large for the chosen offset");
  co_return co_await file_.truncate(length + window_.offset, options);
}

void RawDriver::child_resized(Edge&) {
  if (window_.size) return;
  const uint64_t length = file_.node()->length();
  node().set_length(length - std::min(length, window_.offset));
}

// --- facts

// A window has no tables and does not grow: it needs no more than its parents do. Two of one file
// can be written at the same time.
PermissionPair RawDriver::child_permissions(const Edge* edge, ChildRoles roles,
                                            PermissionPair parent, bool writable) const {
  constexpr Permissions kChanges = Permissions(Permission::kWrite) | Permission::kResize;
  PermissionPair result = Driver::child_permissions(edge, roles, parent, writable);
  result.needs = (result.needs - kChanges) | (parent.needs & kChanges);
  return result;
}

void RawDriver::refresh_limits(BlockLimits& limits) const {
  limits = file_.node()->limits();
  // The file widens what comes to it, at its own offsets.
  limits.request_alignment = node().probed() ? uint32_t{kSector} : 1;
}

DriverInfo RawDriver::info() const { return file_.node()->driver().info(); }

bool RawDriver::has_zero_init() const { return file_.node()->driver().has_zero_init(); }
bool RawDriver::has_zero_init_truncate() const {
  return file_.node()->driver().has_zero_init_truncate();
}
bool RawDriver::encrypted() const { return file_.node()->driver().encrypted(); }

void RawDriver::gather_filename_options(json::Object& options) const {
  for (const char* key : {"offset", "size"}) {
    if (const json::Value* value = node().given_options().find(key)) options.set(key, *value);
  }
}

// --- life

std::span<const std::string_view> RawDriver::changeable_options() const {
  static constexpr std::string_view kChangeable[] = {"offset", "size"};
  return kChangeable;
}

Task<Expected<void>> RawDriver::reopen_prepare(const ReopenState& state) {
  auto window = window_of(std::get<schema::BlockdevOptionsRaw>(state.options.u));
  if (!window) co_return fail(std::move(window).error());
  BB_CO_TRY(co_await check_within(state.other_file != nullptr ? *state.other_file : *file_.node(),
                                  *window));
  next_window_ = *window;
  co_return Expected<void>();
}

void RawDriver::reopen_commit() { window_ = *next_window_; }

Task<void> RawDriver::reopen_finish() {
  next_window_.reset();
  co_return;
}

Task<void> RawDriver::close() { co_return; }

}  // namespace blockbed
