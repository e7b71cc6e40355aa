// Image: zeroing and discarding.
#include <fmt/format.h>

#include "block/formats/qcow2/hex_text.h"
#include "block/formats/qcow2/image.h"

namespace blockbed::qcow2 {

namespace {

// Zero bytes are written in chunks of at most this size.
constexpr uint64_t kZeroChunk = 65536;

}  // namespace

Task<Result<void>> Image::zero(uint64_t offset, uint64_t length, RequestFlags flags) {
  const Geometry& g = geometry();
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  // Version 2 cannot say "zero"; what is not there reads as zeroes where no backing file shows, now
  // or when the one that is named is there again.
  if (g.version < 3 &&
      (backing_.attached() || !header().backing_name.empty() || flags.no_fallback)) {
    co_return io_error(ENOTSUP);
  }
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  if (g.raw_external_data) {
    // The data file must read the same without us.
    BB_CO_TRY(co_await metadata_.data().zero(offset, length, flags));
  }
  uint64_t begin = offset;
  uint64_t end = offset + length;
  // What lies behind the end of the disk belongs to nobody.
  if (end >= this->length()) end = align_up(end, g.cluster_size);
  const uint64_t unit = g.subcluster_size();
  const uint64_t inner_begin = align_up(begin, unit);
  const uint64_t inner_end = align_down(end, unit);
  if (inner_begin > inner_end) co_return co_await zero_part(begin, end, flags);
  if (begin < inner_begin) BB_CO_TRY(co_await zero_part(begin, inner_begin, flags));
  if (inner_end < end) BB_CO_TRY(co_await zero_part(inner_end, end, flags));

  begin = inner_begin;
  end = inner_end;
  const uint64_t clusters_begin = align_up(begin, g.cluster_size);
  const uint64_t clusters_end = align_down(end, g.cluster_size);
  const Change change = g.version < 3     ? Change::kRemove
                        : flags.may_unmap ? Change::kZeroUnmap
                                          : Change::kZero;
  auto subclusters = [&](uint64_t from, uint64_t to) -> Task<Result<void>> {
    auto done = co_await zero_subclusters(from, to);
    if (!done && done.error().number() == ENOTSUP && !flags.no_fallback) {
      done = co_await write_zero_bytes(from, to);
    }
    co_return done;
  };
  if (clusters_begin > clusters_end) co_return co_await subclusters(begin, end);
  if (begin < clusters_begin) BB_CO_TRY(co_await subclusters(begin, clusters_begin));
  if (clusters_end < end) BB_CO_TRY(co_await subclusters(clusters_end, end));
  co_return co_await change_clusters(clusters_begin, clusters_end, change);
}

Task<Result<void>> Image::zero_part(uint64_t begin, uint64_t end, RequestFlags flags) {
  const uint64_t unit = align_down(begin, geometry().subcluster_size());
  auto mapped = co_await map_read(begin, end - begin);
  if (!mapped) co_return io_error(mapped.error());
  if (mapped->kind == Kind::kZero) co_return Result<void>();
  // Where nothing is allocated it may read as zeroes already: then all of it becomes zeroes that do
  // not depend on the backing file.
  if (mapped->kind == Kind::kUnallocated && co_await rest_reads_zero(begin, end)) {
    if (geometry().version < 3) co_return Result<void>();
    auto flagged = co_await flag_unallocated(unit);
    if (!flagged) co_return io_error(flagged.error());
    if (*flagged) co_return Result<void>();
  }
  if (flags.no_fallback) co_return io_error(ENOTSUP);
  co_return co_await write_zero_bytes(begin, end);
}

Task<bool> Image::rest_reads_zero(uint64_t begin, uint64_t end) {
  const uint64_t size = geometry().subcluster_size();
  const uint64_t unit = align_down(begin, size);
  const uint64_t unit_end = std::min(unit + size, length());
  co_return co_await backing_.reads_zero(unit, begin - unit) &&
      (end >= unit_end || co_await backing_.reads_zero(end, unit_end - end));
}

Task<Result<Image::EntryToFlag>> Image::entry_to_flag(uint64_t cluster) {
  const Geometry& g = geometry();
  EntryToFlag found;
  found.guard = co_await lock_range(cluster, cluster + g.cluster_size);
  auto piece = co_await metadata_.writable_piece(cluster);
  if (!piece) co_return io_error(piece.error());
  found.piece = *piece;
  found.index = g.index_in_piece(cluster);
  found.entry = load_entry(g, found.piece->data(), found.index);
  found.state = cluster_state(g, found.entry, cluster);
  co_return found;
}

void Image::put_entry(const EntryToFlag& changed) {
  store_entry(geometry(), changed.piece->data(), changed.index, changed.entry);
  metadata_.piece_changed(*changed.piece, false);
}

Task<Result<bool>> Image::flag_unallocated(uint64_t begin) {
  const Geometry& g = geometry();
  const uint64_t cluster = g.cluster_start(begin);
  auto found = co_await entry_to_flag(cluster);
  if (!found) co_return io_error(found.error());
  const Kind kind = found->state.kind;
  if (kind == Kind::kCompressed || kind == Kind::kInvalid) co_return false;
  if (g.extended_l2) {
    const uint64_t bit = uint64_t{1} << ((begin - cluster) >> g.subcluster_bits);
    if ((found->entry.bitmap & bit) != 0) co_return false;
    found->entry.bitmap |= bit << 32;
  } else {
    if (kind != Kind::kUnallocated) co_return false;
    found->entry.value |= kEntryZero;
  }
  put_entry(*found);
  co_return true;
}

Task<Result<void>> Image::write_zero_bytes(uint64_t begin, uint64_t end) {
  const Buffer zeroes = Buffer::zeroed(std::min(kZeroChunk, end - begin));
  while (begin < end) {
    auto some = co_await write_some(
        begin, Payload(zeroes.io(0, std::min<uint64_t>(zeroes.size(), end - begin))));
    if (!some) co_return io_error(some.error());
    begin += *some;
  }
  co_return Result<void>();
}

Task<Result<void>> Image::zero_subclusters(uint64_t begin, uint64_t end) {
  const Geometry& g = geometry();
  const uint64_t cluster = g.cluster_start(begin);
  auto found = co_await entry_to_flag(cluster);
  if (!found) co_return io_error(found.error());
  if (found->state.kind == Kind::kCompressed) co_return io_error(ENOTSUP);
  if (found->state.kind == Kind::kInvalid) {
    co_return io_error(co_await report_fault(found->state.fault, cluster));
  }
  const uint64_t first = (begin - cluster) >> g.subcluster_bits;
  const uint64_t count = (end - begin) >> g.subcluster_bits;
  const uint64_t bits = ((uint64_t{1} << count) - 1) << first;
  found->entry.bitmap = (found->entry.bitmap & ~bits) | (bits << 32);
  put_entry(*found);
  co_return Result<void>();
}

Task<Result<void>> Image::discard(uint64_t offset, uint64_t length) {
  const Geometry& g = geometry();
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  // Without a zero flag the backing file would show again.
  if (g.version < 3 && backing_.attached()) co_return io_error(ENOTSUP);
  const uint64_t begin = align_up(offset, g.cluster_size);
  uint64_t end = offset + length;
  end = end >= this->length() ? align_up(end, g.cluster_size) : align_down(end, g.cluster_size);
  if (begin >= end) co_return io_error(ENOTSUP);
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  if (g.raw_external_data) {
    // A discarded cluster reads as zeroes here, whether or not the data file is told of discards
    // (pass-discard-request); it must do so there too.
    BB_CO_TRY(co_await metadata_.data().zero(begin, std::min(end, this->length()) - begin,
                                             RequestFlags().with_may_unmap()));
  }
  co_return co_await change_clusters(begin, end, Change::kDiscard);
}

Task<Result<void>> Image::make_empty() {
  if (metadata_.failed()) co_return io_error(ENOMEDIUM);
  Metadata::RequestGuard guard(metadata_);
  if (!writing_) BB_CO_TRY(co_await begin_writing());
  co_await metadata_.file().debug_event(DebugEvent::kEmptyImagePrepare);
  if (geometry().raw_external_data) {
    BB_CO_TRY(co_await metadata_.data().zero(0, this->length(), RequestFlags().with_may_unmap()));
  }
  const uint64_t end = align_up(this->length(), geometry().cluster_size);
  co_return co_await change_clusters(0, end, Change::kRemove);
}

bool Image::keeps_cluster(const ClusterState& state, Change change) const {
  // What a snapshot shares is no place to write to.
  return metadata_.options().discard_no_unref && state.has_host && state.copied &&
         (change == Change::kDiscard || change == Change::kZeroUnmap);
}

std::optional<L2Entry> Image::changed_entry(L2Entry old, const ClusterState& state,
                                            Change change) const {
  const Geometry& g = geometry();
  const bool compressed = state.kind == Kind::kCompressed;
  const bool holds = state.has_host || compressed || (old.value & kOffsetMask) != 0;
  L2Entry entry;
  switch (change) {
    case Change::kRemove:
      break;
    case Change::kDiscard:
      // Nothing there and nothing behind it: already as discarded as can be.
      if (!holds && state.kind == Kind::kUnallocated && !backing_.attached() && !state.any_data &&
          old.bitmap == 0) {
        return std::nullopt;
      }
      if (keeps_cluster(state, change)) entry.value = old.value;
      if (g.version >= 3) {
        (g.extended_l2 ? entry.bitmap : entry.value) =
            g.extended_l2 ? kAllSubclustersZero : entry.value | kEntryZero;
      }
      break;
    case Change::kZero:
    case Change::kZeroUnmap: {
      const bool unmap = compressed || (change == Change::kZeroUnmap && state.has_host &&
                                        !keeps_cluster(state, change));
      entry.value = unmap ? 0 : old.value;
      if (g.extended_l2) {
        entry.bitmap = kAllSubclustersZero;
      } else {
        entry.value |= kEntryZero;
      }
      break;
    }
  }
  if (entry.value == old.value && entry.bitmap == old.bitmap) return std::nullopt;
  return entry;
}

uint64_t Image::first_to_change(Metadata::Piece& piece, uint64_t begin, uint64_t end,
                                Change change) const {
  const Geometry& g = geometry();
  const bool removes = change == Change::kDiscard || change == Change::kRemove;
  for (uint64_t at = begin; at < end; at += g.cluster_size) {
    const L2Entry entry = load_entry(g, piece.data(), g.index_in_piece(at));
    const ClusterState state = cluster_state(g, entry, at);
    if ((state.kind == Kind::kInvalid && !removes) || changed_entry(entry, state, change)) {
      return at;
    }
  }
  return end;
}

Task<Result<void>> Image::change_clusters(uint64_t begin, uint64_t end, Change change,
                                          FreeReason reason) {
  const Geometry& g = geometry();
  const bool removes = change == Change::kDiscard || change == Change::kRemove;
  uint64_t at = begin;
  while (at < end) {
    const uint64_t piece_end =
        std::min(end, align_down(at, g.piece_coverage()) + g.piece_coverage());
    MutexGuard guard = co_await lock_range(at, piece_end);
    const uint64_t l1_index = g.l1_index(at);
    const bool no_table =
        l1_index >= metadata_.l1().size() || (metadata_.l1()[l1_index] & kOffsetMask) == 0;
    if (no_table && (change == Change::kRemove || (removes && !backing_.attached()))) {
      at = std::min(end, align_down(at, g.l2_coverage()) + g.l2_coverage());
      continue;
    }
    if (!no_table) {
      // A table in which nothing changes is neither copied nor written: it may be shared, or lie
      // where the file never was.
      auto present = co_await metadata_.load_piece(at);
      if (!present) co_return io_error(present.error());
      at = first_to_change(**present, at, piece_end, change);
      if (at == piece_end) continue;
    }
    auto piece = co_await metadata_.writable_piece(at);
    if (!piece) co_return io_error(piece.error());
    bool changed = false;
    for (; at < piece_end; at += g.cluster_size) {
      const uint32_t index = g.index_in_piece(at);
      const L2Entry old = load_entry(g, (*piece)->data(), index);
      const ClusterState state = cluster_state(g, old, at);
      if (state.kind == Kind::kInvalid && !removes) {
        if (changed) metadata_.piece_changed(**piece, false);
        co_return io_error(co_await report_fault(state.fault, at));
      }
      const std::optional<L2Entry> entry = changed_entry(old, state, change);
      if (!entry) continue;
      const bool dropped = state.kind == Kind::kCompressed || entry->value == 0 ||
                           (entry->value & kOffsetMask) != (old.value & kOffsetMask) ||
                           // The first cluster of an external data file lies at 0.
                           (g.external_data && ((entry->value ^ old.value) & kEntryCopied) != 0);
      store_entry(g, (*piece)->data(), index, *entry);
      metadata_.piece_changed(**piece, false);
      changed = true;
      if (!dropped) {
        if (keeps_cluster(state, change)) {
          metadata_.discard_place_later(old.value & kOffsetMask);
        }
        continue;
      }
      if (state.kind != Kind::kCompressed && g.in_cluster(old.value & kOffsetMask) != 0) {
        // Its count cannot be told; it leaks. Reporting may suspend: the piece is looked up again.
        (void)co_await metadata_.report(Corruption{
            false,
            fmt::format("Cannot free unaligned cluster {}", hex_text(old.value & kOffsetMask)),
            {},
            {}});
        piece = co_await metadata_.writable_piece(at);
        if (!piece) co_return io_error(piece.error());
        continue;
      }
      metadata_.free_entry_later(old.value, reason);
    }
  }
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
