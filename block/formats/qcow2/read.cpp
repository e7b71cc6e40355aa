// Image: reading, and what is where.
#include <fmt/format.h>

#include <utility>

#include "block/formats/qcow2/compression.h"
#include "block/formats/qcow2/hex_text.h"
#include "block/formats/qcow2/image.h"
#include "block/formats/qcow2/parallel.h"

namespace blockbed::qcow2 {

ReadRun Image::without_table(uint64_t guest, uint64_t length) const {
  ReadRun run;
  const uint64_t table_end = align_down(guest, geometry().l2_coverage()) + geometry().l2_coverage();
  run.length = std::min(length, table_end - guest);
  return run;
}

bool Image::map_read_here(uint64_t guest, uint64_t length, ReadRun& run) {
  Metadata::Piece* piece = nullptr;
  switch (metadata_.find_piece(guest, piece)) {
    case Metadata::Lookup::kHere:
      run = qcow2::map_read(geometry(), piece->data(), guest, length);
      return true;
    case Metadata::Lookup::kNoTable:
      run = without_table(guest, length);
      return true;
    case Metadata::Lookup::kNotLoaded:
    case Metadata::Lookup::kCorrupt:
      return false;
  }
  return false;
}

namespace {

// Whether `next`, found right behind `run`, only continues it.
bool continues(const ReadRun& run, const ReadRun& next) {
  if (next.kind != run.kind || next.has_host != run.has_host) return false;
  switch (run.kind) {
    case Kind::kCompressed:
    case Kind::kInvalid:
      return false;
    default:
      return !run.has_host || next.host == run.host + run.length;
  }
}

}  // namespace

void Image::extend(ReadRun& run, uint64_t guest, uint64_t length) {
  ReadRun next;
  while (run.length < length && map_read_here(guest + run.length, length - run.length, next) &&
         continues(run, next)) {
    run.length += next.length;
  }
}

bool Image::map_read_cached(uint64_t guest, uint64_t length, ReadRun& run) {
  if (!map_read_here(guest, length, run)) return false;
  extend(run, guest, length);
  return true;
}

Task<Result<ReadRun>> Image::map_read(uint64_t guest, uint64_t length) {
  ReadRun run;
  if (map_read_cached(guest, length, run)) co_return run;
  auto piece = co_await metadata_.load_piece(guest);
  if (!piece) co_return io_error(piece.error());
  run = *piece == nullptr ? without_table(guest, length)
                          : qcow2::map_read(geometry(), (*piece)->data(), guest, length);
  extend(run, guest, length);
  co_return run;
}

Task<Result<void>> Image::read(uint64_t offset, IoVector buffers) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  Metadata::RequestGuard guard(metadata_);
  // The common cases without a frame in between: one run, cached.
  ReadRun run;
  if (const uint64_t length = buffers.size();
      map_read_cached(offset, length, run) && run.length == length) {
    if (run.kind == Kind::kData) {
      co_await metadata_.file().debug_event(DebugEvent::kReadAio);
      co_return co_await metadata_.data().read(run.host, std::move(buffers));
    }
    if (reads_zero(run.kind, offset)) {
      buffers.fill(0);
      co_return Result<void>();
    }
  }
  co_return co_await read_unguarded(offset, std::move(buffers));
}

Task<Result<void>> Image::read_unguarded(uint64_t offset, IoVector buffers) {
  const uint64_t size = buffers.size();
  Parallel parallel(env_.executor());
  Result<void> result;
  for (uint64_t done = 0; done < size;) {
    ReadRun run;
    if (!map_read_cached(offset + done, size - done, run)) {
      auto mapped = co_await map_read(offset + done, size - done);
      if (!mapped) {
        result = io_error(mapped.error());
        break;
      }
      run = *mapped;
    }
    if (run.length == size) {
      result = co_await read_run(run, offset, std::move(buffers));
      break;
    }
    IoVector part = buffers.slice(done, run.length);
    if (reads_zero(run.kind, offset + done)) {
      part.fill(0);
    } else if (done + run.length == size && parallel.idle()) {
      result = co_await read_run(run, offset + done, std::move(part));
    } else {
      co_await parallel.start(read_run(run, offset + done, std::move(part)));
      if (parallel.failed()) break;
    }
    if (!result) break;
    done += run.length;
  }
  if (!parallel.idle()) co_await parallel.finish();
  co_return result ? parallel.result() : result;
}

bool Image::reads_zero(Kind kind, uint64_t begin) const {
  return kind == Kind::kZero || (kind == Kind::kUnallocated && backing_length() <= begin);
}

Task<Result<void>> Image::read_run(ReadRun run, uint64_t guest, IoVector buffers) {
  switch (run.kind) {
    case Kind::kData:
      co_await metadata_.file().debug_event(DebugEvent::kReadAio);
      co_return co_await metadata_.data().read(run.host, std::move(buffers));
    case Kind::kZero:
      buffers.fill(0);
      co_return Result<void>();
    case Kind::kUnallocated:
      co_return co_await read_backing(guest, std::move(buffers));
    case Kind::kCompressed:
      co_return co_await read_compressed(run.host, guest, std::move(buffers));
    case Kind::kInvalid:
      break;
  }
  co_return io_error(co_await report_fault(run.fault, guest));
}

Task<Result<void>> Image::read_backing(uint64_t guest, IoVector buffers) {
  const uint64_t size = buffers.size();
  const uint64_t there = backing_length();
  if (guest < there) co_await metadata_.file().debug_event(DebugEvent::kReadBackingAio);
  if (guest + size <= there) co_return co_await backing_.read(guest, std::move(buffers));
  const uint64_t shared = guest < there ? there - guest : 0;
  buffers.slice(shared, size - shared).fill(0);
  if (shared == 0) co_return Result<void>();
  co_return co_await backing_.read(guest, buffers.slice(0, shared));
}

Task<Result<void>> Image::read_compressed(uint64_t entry, uint64_t guest, IoVector buffers) {
  const Geometry& g = geometry();
  const CompressedExtent extent = parse_compressed(g, entry);
  Buffer from(extent.bytes);
  co_await metadata_.file().debug_event(DebugEvent::kReadCompressed);
  BB_CO_TRY(co_await metadata_.file().read(extent.offset, from.io()));
  const auto ranges = buffers.ranges();
  const bool direct = buffers.size() == g.cluster_size && ranges.size() == 1;
  Buffer cluster;
  if (!direct) cluster = Buffer(g.cluster_size);
  auto* const target = direct ? static_cast<std::byte*>(ranges[0].iov_base) : cluster.data();
  bool good = false;
  const CompressionType type = header().compression;
  std::function<void()> work = [&good, type, &from, target, size = g.cluster_size] {
    good = decompress(type, from.span(), std::span<std::byte>(target, size));
  };
  co_await codecs_.acquire();
  co_await env_.run_on_worker(std::move(work));
  codecs_.release();
  if (!good) co_return io_error(EIO);
  if (!direct) buffers.copy_from(cluster.data() + g.in_cluster(guest));
  co_return Result<void>();
}

Task<Errno> Image::report_fault(Fault fault, uint64_t guest, bool writing) {
  const Geometry& g = geometry();
  const uint64_t table = metadata_.l1()[g.l1_index(guest)] & kOffsetMask;
  const uint64_t index = (guest >> g.cluster_bits) & ((uint64_t{1} << g.l2_bits) - 1);
  L2Entry entry;
  uint64_t host = 0;
  if (auto piece = co_await metadata_.load_piece(guest); piece && *piece != nullptr) {
    entry = load_entry(g, (*piece)->data(), g.index_in_piece(guest));
    host = entry.value & kOffsetMask;
  }
  const std::string where =
      fmt::format("(L2 offset: {}, L2 index: {})", hex_text(table), hex_text(index));
  Corruption corruption;
  switch (fault) {
    case Fault::kUnaligned: {
      if (!writing) co_return co_await metadata_.report_unaligned(host, table, index);
      const bool zero = !g.extended_l2 && (entry.value & kEntryZero) != 0;
      corruption.message =
          fmt::format("{} cluster offset {} unaligned (guest offset: {})",
                      zero ? "Preallocated zero" : "Data", hex_text(host), hex_text(guest));
      break;
    }
    case Fault::kZeroInV2:
      corruption.message = "Zero cluster entry found in pre-v3 image " + where;
      break;
    case Fault::kCompressedData:
      corruption.message =
          "Compressed cluster entry found in image with external data file " + where;
      break;
    case Fault::kWrongExternal:
      corruption.message = fmt::format(
          "External data file host cluster offset {} does not match guest cluster offset: {}, "
          "L2 index: {})",
          hex_text(host), hex_text(g.cluster_start(guest)), hex_text(index));
      break;
    case Fault::kSubclusters:
    case Fault::kNone:
      // Clients compare the text, and QEMU's has one blank more when it reads.
      corruption.message =
          (writing ? "Invalid cluster entry found " : "Invalid cluster entry found  ") + where;
      break;
  }
  co_return co_await metadata_.report(std::move(corruption));
}

Task<Result<ImageStatus>> Image::status(uint64_t offset, uint64_t length) {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  Metadata::RequestGuard guard(metadata_);
  ReadRun run;
  if (!map_read_cached(offset, length, run)) {
    auto mapped = co_await map_read(offset, length);
    if (!mapped) co_return io_error(mapped.error());
    run = *mapped;
  }
  if (run.kind == Kind::kInvalid) co_return io_error(co_await report_fault(run.fault, offset));
  ImageStatus status;
  status.length = run.length;
  status.kind = run.kind;
  if (run.has_host && run.kind != Kind::kCompressed) status.host = run.host;
  co_return status;
}

}  // namespace blockbed::qcow2
