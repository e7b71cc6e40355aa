#include "block/filters/blklogwrites.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "block/graph/node.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

constexpr uint64_t kMagic = 0x6a736677736872;
constexpr uint64_t kVersion = 1;
// The log is walked once to find its end; more entries than this are no log that somebody made.
constexpr uint64_t kMaxEntries = uint64_t{1} << 32;

constexpr uint64_t kFlushFlag = 1u << 0;
constexpr uint64_t kFuaFlag = 1u << 1;
constexpr uint64_t kDiscardFlag = 1u << 2;

// --- the format: 64-bit little-endian numbers

struct Superblock {
  uint64_t magic = kMagic;
  uint64_t version = kVersion;
  uint64_t entries = 0;
  uint32_t sector_size = 0;
};
constexpr std::size_t kSuperblockBytes = 28;
constexpr std::size_t kEntryBytes = 32;

template <class Number>
void put(std::byte*& at, Number value) {
  for (std::size_t i = 0; i < sizeof value; ++i) *at++ = static_cast<std::byte>(value >> (8 * i));
}
template <class Number>
void take(const std::byte*& at, Number& value) {
  value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    value |= static_cast<Number>(static_cast<Number>(*at++) << (8 * i));
  }
}

Superblock parse_superblock(const std::byte* at) {
  Superblock super;
  take(at, super.magic);
  take(at, super.version);
  take(at, super.entries);
  take(at, super.sector_size);
  return super;
}

bool is_sector_size(uint64_t size) {
  return std::has_single_bit(size) && size >= Blklogwrites::kMinSectorSize &&
         size <= Blklogwrites::kMaxSectorSize;
}

std::unexpected<Error> cannot_read(const char* what, Errno error) {
  return fail(fmt::format("Could not read log {}: {}", what, strerror_text(error)));
}

// Where a log that is there ends.
Task<Expected<Blklogwrites::Place>> find_end(Edge& log) {
  Blklogwrites::Place place;
  if (log.node()->length() == 0) co_return place;
  std::byte bytes[kSuperblockBytes];
  if (auto read = co_await log.read(0, bytes, sizeof bytes); !read) {
    co_return cannot_read("superblock", read.error());
  }
  const Superblock super = parse_superblock(bytes);
  if (super.magic != kMagic) co_return fail("Invalid log superblock magic");
  if (super.version != kVersion) {
    co_return fail(fmt::format("Unsupported log version {}", super.version));
  }
  if (!is_sector_size(super.sector_size)) {
    co_return fail(fmt::format("Invalid log sector size {}", super.sector_size));
  }
  if (super.entries > kMaxEntries) {
    co_return fail(fmt::format("Invalid number of log entries {}", super.entries));
  }
  place.sector_size = super.sector_size;
  const uint64_t most = kMaxLength / super.sector_size;
  for (; place.entries < super.entries; ++place.entries) {
    std::byte header[kEntryBytes];
    const uint64_t where = place.next_sector * super.sector_size;
    if (auto read = co_await log.read(where, header, sizeof header); !read) {
      co_return cannot_read(fmt::format("entry {}", place.entries).c_str(), read.error());
    }
    const std::byte* at = header;
    uint64_t sector, sectors, flags;
    take(at, sector);
    take(at, sectors);
    take(at, flags);
    if ((flags & ~(kFlushFlag | kFuaFlag | kDiscardFlag)) != 0) {
      co_return fail(fmt::format("Invalid flags in log entry {}", place.entries));
    }
    ++place.next_sector;
    if ((flags & kDiscardFlag) != 0) continue;
    if (sectors > most - place.next_sector) {
      co_return fail(fmt::format("Log entry {} is too long", place.entries));
    }
    place.next_sector += sectors;
  }
  co_return place;
}

}  // namespace

Task<Expected<std::unique_ptr<Driver>>> Blklogwrites::open(OpenContext& context,
                                                           const schema::BlockdevOptions& options) {
  const auto& own = std::get<schema::BlockdevOptionsBlklogwrites>(options.u);
  auto file = co_await context.open_child("file", kFilteredRoles);
  if (!file) co_return fail(std::move(file).error());
  auto log = co_await context.open_child("log", ChildRole::kMetadata);
  if (!log) co_return fail(std::move(log).error());

  Place place;
  if (own.log_append.value_or(false)) {
    if (own.log_sector_size) {
      co_return fail("log-append and log-sector-size are mutually exclusive");
    }
    auto found = co_await find_end(**log);
    if (!found) co_return fail(std::move(found).error());
    place = *found;
  } else {
    place.sector_size = own.log_sector_size.value_or(kDefaultSectorSize);
    if (!is_sector_size(place.sector_size)) {
      co_return fail(fmt::format("Invalid log sector size {}", place.sector_size));
    }
  }
  const uint64_t interval = own.log_super_update_interval.value_or(kDefaultUpdateInterval);
  if (interval == 0) {
    co_return fail(fmt::format("Invalid log superblock update interval {}", interval));
  }
  co_return std::make_unique<Blklogwrites>(context.node(), **file, **log, place, interval);
}

Blklogwrites::Blklogwrites(Node& node, Edge& file, Edge& log, Place place, uint64_t update_interval)
    : PassThroughFilter(node, file),
      log_(log),
      place_(place),
      update_interval_(update_interval),
      appending_(node.graph().executor()) {}

// --- requests

Task<Result<void>> Blklogwrites::write(uint64_t offset, IoVector buffers, RequestFlags flags) {
  BB_CO_TRY(co_await file_.write(offset, buffers, flags));
  const uint64_t length = buffers.size();
  co_return co_await append(Entry(offset, length, flags.fua ? kFuaFlag : 0, std::move(buffers)));
}

Task<Result<void>> Blklogwrites::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  BB_CO_TRY(co_await file_.zero(offset, length, flags));
  co_return co_await append(Entry(offset, length, flags.fua ? kFuaFlag : 0, {}, length));
}

Task<Result<void>> Blklogwrites::discard(uint64_t offset, uint64_t length) {
  BB_CO_TRY(co_await file_.discard(offset, length));
  co_return co_await append(Entry(offset, length, kDiscardFlag));
}

Task<Result<void>> Blklogwrites::flush_to_disk() {
  BB_CO_TRY(co_await file_.flush());
  co_return co_await append(Entry(0, 0, kFlushFlag));
}

Task<Result<void>> Blklogwrites::append(Entry entry) {
  const MutexGuard guard = co_await appending_.lock();
  const uint64_t unit = place_.sector_size;
  const uint64_t where = place_.next_sector * unit;
  Buffer header = Buffer::zeroed(unit);
  std::byte* at = header.data();
  put(at, entry.offset / unit);
  put(at, entry.length / unit);
  put(at, entry.flags);
  put(at, uint64_t{0});  // bytes of a mark's text

  IoVector bytes = header.io();
  for (const iovec& range : entry.data.ranges()) bytes.append(range.iov_base, range.iov_len);
  BB_CO_TRY(co_await log_.write(where, bytes));
  if (entry.zero_bytes > 0) BB_CO_TRY(co_await log_.zero(where + unit, entry.zero_bytes));
  place_.next_sector += 1 + (entry.data.size() + entry.zero_bytes) / unit;
  ++place_.entries;
  if ((entry.flags & kFlushFlag) != 0 || place_.entries % update_interval_ == 0) {
    co_return co_await write_superblock();
  }
  co_return Result<void>();
}

Task<Result<void>> Blklogwrites::write_superblock() {
  // It must not count what is not there yet.
  BB_CO_TRY(co_await log_.flush());
  Buffer sector = Buffer::zeroed(place_.sector_size);
  std::byte* at = sector.data();
  put(at, kMagic);
  put(at, kVersion);
  put(at, place_.entries);
  put(at, place_.sector_size);
  BB_CO_TRY(co_await log_.write(0, sector.io()));
  co_return co_await log_.flush();
}

// --- facts

PermissionPair Blklogwrites::child_permissions(const Edge*, ChildRoles roles, PermissionPair parent,
                                               bool writable) const {
  // What parents want of the disk they do not want of the log.
  if (roles.has(ChildRole::kMetadata)) parent.needs = Permissions::none();
  return default_child_permissions(node(), roles, parent, writable);
}

void Blklogwrites::refresh_limits(BlockLimits& limits) const {
  limits.request_alignment = std::max(limits.request_alignment, place_.sector_size);
}

void Blklogwrites::gather_filename_options(json::Object& options) const {
  if (const json::Value* size = node().given_options().find("log-sector-size")) {
    options.set("log-sector-size", *size);
  }
}

}  // namespace blockbed
