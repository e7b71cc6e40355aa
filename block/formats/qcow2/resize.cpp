// Image: changing the size of the disk, and preallocating.
#include <fmt/format.h>

#include "block/formats/qcow2/image.h"

namespace blockbed::qcow2 {

namespace {

constexpr uint64_t kLengthUnit = 512;

std::unexpected<Error> no_file_length(Errno error) {
  return fail(fmt::format("Failed to inquire current file length: {}", strerror_text(error)));
}

}  // namespace

Task<Expected<void>> Image::truncate(uint64_t length, TruncateOptions options) {
  if (metadata_.failed()) co_return fail("No medium inserted");
  if (length % kLengthUnit != 0) {
    co_return fail(fmt::format("The new size must be a multiple of {}", kLengthUnit));
  }
  if (geometry().version < 3 && header().snapshot_count > 0) {
    co_return fail("Can't resize a v2 image which has snapshots");
  }
  std::optional<Metadata::RequestGuard> guard;
  guard.emplace(metadata_);
  if (auto begun = co_await begin_writing(); !begun) {
    co_return fail(
        fmt::format("Failed to update the image size: {}", strerror_text(begun.error())));
  }
  if (length < this->length()) {
    if (options.preallocation != Preallocation::kOff) {
      co_return fail("Preallocation can't be used for shrinking an image");
    }
    // Nothing of its own may keep clusters that are cut off from being freed.
    guard.reset();
    co_return co_await shrink(length);
  }
  co_return co_await grow(length, options);
}

// What lies behind the end must not become part of the disk.
Task<Result<void>> Image::drop_vm_state() {
  const Geometry& g = geometry();
  const uint64_t first = g.l1_entries(length());
  uint64_t end = metadata_.l1().size();
  while (end > first && metadata_.l1()[end - 1] == 0) --end;
  if (end <= first) co_return Result<void>();
  BB_CO_TRY(
      co_await change_clusters(first * g.l2_coverage(), end * g.l2_coverage(), Change::kRemove));
  MutexGuard lock = co_await metadata_.lock();
  for (uint64_t i = first; i < end; ++i) metadata_.drop_l2_table(i);
  co_return co_await metadata_.write_back();
}

// The last table covers more than the disk does: entries there are no part of it, whoever made
// them.
Task<Result<void>> Image::drop_entries_behind_end() {
  const Geometry& g = geometry();
  const uint64_t end = g.l1_entries(length()) * g.l2_coverage();
  for (uint64_t at = align_up(length(), g.cluster_size); at < end;) {
    auto mapped = co_await map_read(at, end - at);
    if (!mapped) co_return io_error(mapped.error());
    if (mapped->kind != Kind::kUnallocated || mapped->has_host) {
      co_return co_await change_clusters(at, end, Change::kRemove);
    }
    at += mapped->length;
  }
  co_return Result<void>();
}

Task<Expected<void>> Image::grow(uint64_t length, TruncateOptions options) {
  const Geometry& g = geometry();
  const uint64_t old_length = this->length();
  Result<void> done = co_await drop_vm_state();
  if (done) done = co_await drop_entries_behind_end();
  if (done) {
    MutexGuard lock = co_await metadata_.lock();
    done = co_await metadata_.grow_l1(g.l1_entries(length));
  }
  if (!done) {
    co_return fail(fmt::format("Failed to grow the L1 table: {}", strerror_text(done.error())));
  }

  // What the last cluster holds behind the old end was never part of the disk.
  const uint64_t tail_end = std::min(align_up(old_length, g.cluster_size), length);
  if (old_length < tail_end && old_length > 0) {
    for (uint64_t at = old_length; at < tail_end && done;) {
      auto mapped = co_await map_read(at, tail_end - at);
      if (!mapped) {
        done = io_error(mapped.error());
        break;
      }
      const uint64_t part = mapped->length;
      if (mapped->kind == Kind::kData || mapped->kind == Kind::kCompressed ||
          (options.zero_new && mapped->kind != Kind::kZero)) {
        done = co_await write_zero_bytes(at, at + part);
      }
      at += part;
    }
  }
  if (done && options.zero_new && tail_end < length) {
    const uint64_t end = align_up(length, g.cluster_size);
    done = g.version >= 3 ? co_await change_clusters(tail_end, end, Change::kZero)
                          : Result<void>(io_error(ENOTSUP));
  }
  if (!done) {
    co_return fail(fmt::format("Failed to zero out new clusters: {}", strerror_text(done.error())));
  }
  // Who reads the data file alone sees what a guest sees: all of it is there.
  if (g.raw_external_data && options.preallocation == Preallocation::kOff) {
    options.preallocation = Preallocation::kMetadata;
  }
  if (options.preallocation != Preallocation::kOff) {
    if (g.external_data && old_length > 0) BB_CO_TRY(co_await cut_data_file(old_length));
    BB_CO_TRY(co_await preallocate(tail_end, length, options.preallocation));
  }
  if (g.external_data) {
    // The disk is as long as the data file, for those who read that alone.
    TruncateOptions data_options;
    data_options.exact = false;
    if (options.preallocation == Preallocation::kFalloc ||
        options.preallocation == Preallocation::kFull) {
      data_options.preallocation = options.preallocation;
    }
    auto data_length = co_await metadata_.data().length();
    if (!data_length) co_return no_file_length(data_length.error());
    // What it holds behind a disk that allocates nothing yet goes; where its bytes become the disk
    // it may be longer.
    const bool cuts = options.preallocation == Preallocation::kOff;
    if (*data_length < length || (cuts && *data_length > length)) {
      BB_CO_TRY(co_await metadata_.data().truncate(length, data_options));
    }
  }
  {
    MutexGuard lock = co_await metadata_.lock();
    // With a barrier: what was behind the old end is gone before it is inside.
    done = co_await metadata_.sync();
    if (done) done = co_await metadata_.set_size(length);
  }
  if (!done) {
    co_return fail(fmt::format("Failed to update the image size: {}", strerror_text(done.error())));
  }
  co_return Expected<void>();
}

Task<Expected<void>> Image::preallocate(uint64_t begin, uint64_t end, Preallocation mode) {
  const Geometry& g = geometry();
  const auto failed = [mode](Errno error) {
    return fail(fmt::format("{}: {}",
                            mode == Preallocation::kMetadata
                                ? "Allocating clusters failed"
                                : "Failed to resize refcount structures",
                            strerror_text(error)));
  };
  begin = align_down(begin, g.cluster_size);
  end = align_up(end, g.cluster_size);
  uint64_t at = begin;
  while (at < end) {
    const uint64_t piece_end =
        std::min(end, align_down(at, g.piece_coverage()) + g.piece_coverage());
    MutexGuard guard = co_await lock_range(at, piece_end);
    auto piece = co_await metadata_.writable_piece(at);
    if (!piece) co_return failed(piece.error());
    // The run of clusters that have nothing yet.
    uint64_t run_end = at;
    while (run_end < piece_end) {
      const L2Entry entry = load_entry(g, (*piece)->data(), g.index_in_piece(run_end));
      const ClusterState state = cluster_state(g, entry, run_end);
      if (state.kind == Kind::kInvalid || state.has_host || state.kind == Kind::kCompressed) break;
      run_end += g.cluster_size;
    }
    if (run_end == at) {
      at += g.cluster_size;
      continue;
    }
    uint64_t host = at;
    bool fresh = true;
    if (!g.external_data) {
      auto allocation =
          co_await metadata_.allocate((run_end - at) >> g.cluster_bits, "data cluster");
      if (!allocation) co_return failed(allocation.error());
      host = allocation->host;
      fresh = allocation->fresh;
      // The file reaches as far as what is referred to in it, before anything refers to it.
      auto reached = co_await extend_file(host + (run_end - at), mode);
      if (!reached) {
        (void)co_await metadata_.give_back(host, run_end - at);
        co_return reached;
      }
    } else {
      metadata_.keep_place(at, run_end);
    }
    piece = co_await metadata_.writable_piece(at);
    if (!piece) co_return failed(piece.error());
    if (!fresh && g.version < 3) {
      // No flag can hide what was there before.
      const Buffer zeroes = Buffer::zeroed(g.cluster_size);
      for (uint64_t i = 0; i < run_end - at; i += g.cluster_size) {
        auto written = co_await write_data(host + i, zeroes.io());
        if (!written) co_return failed(written.error());
      }
      piece = co_await metadata_.writable_piece(at);
      if (!piece) co_return failed(piece.error());
    }
    for (; at < run_end; at += g.cluster_size, host += g.cluster_size) {
      L2Entry entry;
      entry.value = host | kEntryCopied;
      if (g.extended_l2) {
        // What showed through shows through; a backing file that grows must not show more.
        const L2Entry old = load_entry(g, (*piece)->data(), g.index_in_piece(at));
        const bool behind = backing_.attached() && backing_.length() <= at;
        entry.bitmap = behind ? kAllSubclustersZero : old.bitmap;
      } else if (!fresh && g.version >= 3) {
        entry.value |= kEntryZero;
      }
      store_entry(g, (*piece)->data(), g.index_in_piece(at), entry);
    }
    metadata_.piece_changed(**piece, true);
  }
  co_return Expected<void>();
}

Task<Expected<void>> Image::extend_file(uint64_t length, Preallocation mode) {
  auto present = co_await metadata_.file().length();
  if (!present) co_return no_file_length(present.error());
  if (*present >= length) co_return Expected<void>();
  TruncateOptions options;
  if (mode == Preallocation::kFalloc || mode == Preallocation::kFull) options.preallocation = mode;
  options.exact = false;
  auto grown = co_await metadata_.file().truncate(length, options);
  if (!grown && mode != Preallocation::kMetadata) {
    co_return fail(fmt::format("Failed to resize underlying file: {}", grown.error().description));
  }
  co_return grown;
}

Task<Expected<void>> Image::shrink(uint64_t length) {
  const Geometry& g = geometry();
  // What the last table says of clusters behind the end goes with it.
  const uint64_t old_end = g.l1_entries(this->length()) * g.l2_coverage();
  const uint64_t new_end = align_up(length, g.cluster_size);
  // Its tables go with those of the disk, and so must its clusters.
  auto done = co_await drop_vm_state();
  if (done) {
    done = co_await change_clusters(new_end, old_end, Change::kRemove, FreeReason::kCut);
  }
  if (!done) {
    co_return fail(
        fmt::format("Failed to discard cropped clusters: {}", strerror_text(done.error())));
  }
  MutexGuard lock = co_await metadata_.lock();
  co_await metadata_.file().debug_event(DebugEvent::kL1ShrinkWriteTable);
  for (uint64_t i = g.l1_entries(new_end); i < metadata_.l1().size(); ++i)
    metadata_.drop_l2_table(i, FreeReason::kCut);
  done = co_await metadata_.write_back();
  if (!done) {
    co_return fail(
        fmt::format("Failed to reduce the number of L2 tables: {}", strerror_text(done.error())));
  }
  done = co_await metadata_.set_size(length);
  if (!done) {
    co_return fail(fmt::format("Failed to update the image size: {}", strerror_text(done.error())));
  }
  // The disk is as long as it shall be; a file that stays longer is whole.
  (void)co_await metadata_.shorten_file();
  if (g.external_data) {
    // What is cut off must not be there when the disk grows again.
    done = co_await metadata_.sync();
    if (!done) {
      co_return fail(
          fmt::format("Failed to update the image size: {}", strerror_text(done.error())));
    }
    co_return co_await metadata_.data().truncate(length, TruncateOptions());
  }
  co_return Expected<void>();
}

// What a data file has behind the disk was never part of it, or is no more.
Task<Expected<void>> Image::cut_data_file(uint64_t length) {
  auto now = co_await metadata_.data().length();
  if (!now) co_return no_file_length(now.error());
  if (*now <= length) co_return Expected<void>();
  TruncateOptions options;
  options.exact = false;
  co_return co_await metadata_.data().truncate(length, options);
}

}  // namespace blockbed::qcow2
