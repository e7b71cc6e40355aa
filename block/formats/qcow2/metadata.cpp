#include "block/formats/qcow2/metadata.h"

#include <fmt/format.h>

#include "block/formats/qcow2/endian.h"
#include "block/formats/qcow2/hex_text.h"

namespace blockbed::qcow2 {

Metadata::Metadata(Executor& executor, Storage& file, Storage* data, Header header,
                   MetadataOptions options)
    : g_(header.geometry(options.l2_piece_bytes)),
      header_(std::move(header)),
      options_(options),
      file_(file),
      data_(data),
      mutex_(executor),
      l2_cache_(executor, file, g_.l2_piece_bytes, options.l2_pieces, DebugEvent::kL2Load,
                DebugEvent::kL2Update),
      refcount_cache_(executor, file, g_.refcount_piece_bytes, options.refcount_pieces,
                      DebugEvent::kRefblockLoad, DebugEvent::kRefblockUpdatePart),
      overlap_map_(g_.cluster_bits),
      pending_limit_(kPendingFrees),
      reuse_threshold_(options.reuse_bytes) {}

Metadata::~Metadata() { BB_ASSERT(oldest_request_ == nullptr); }

Task<Expected<void>> Metadata::open() {
  auto read = co_await l1_.read(file_, header_.l1_offset, header_.l1_size);
  if (!read) {
    co_return fail(fmt::format("Could not read L1 table: {}", strerror_text(read.error())));
  }
  co_return Expected<void>();
}

Task<Result<void>> Metadata::prepare_for_writing() {
  if (ready_for_writing_) co_return Result<void>();
  const uint64_t entries = header_.refcount_table_clusters * (g_.cluster_size / 8);
  co_await file_.debug_event(DebugEvent::kReftableLoad);
  BB_CO_TRY(co_await refcount_table_.read(file_, header_.refcount_table_offset, entries));
  auto length = co_await file_.length();
  if (!length) co_return io_error(length.error());
  new_space_zero_ = file_.new_space_reads_zero();
  file_end_ = align_up(*length, g_.cluster_size);
  fill_overlap_map();
  if ((header_.autoclear_features & ~autoclear::kKnown) != 0) {
    header_.autoclear_features &= autoclear::kKnown;
    std::byte bytes[8];
    store_be64(bytes, header_.autoclear_features);
    BB_CO_TRY(co_await write_header_field(field::kAutoclear, bytes, sizeof(bytes)));
  }
  ready_for_writing_ = true;
  co_return Result<void>();
}

void Metadata::fill_overlap_map() {
  overlap_map_.clear();
  overlap_map_.add(overlap::kMainHeader, 0, g_.cluster_size);
  overlap_map_.add(overlap::kActiveL1, l1_.offset(), l1_.bytes());
  overlap_map_.add(overlap::kRefcountTable, refcount_table_.offset(), refcount_table_.bytes());
  for (uint64_t entry : l1_.entries()) {
    if ((entry & kOffsetMask) != 0) {
      overlap_map_.add(overlap::kActiveL2, entry & kOffsetMask, g_.cluster_size);
    }
  }
  for (uint64_t entry : refcount_table_.entries()) {
    if ((entry & kRefcountTableOffsetMask) != 0) {
      overlap_map_.add(overlap::kRefcountBlock, entry & kRefcountTableOffsetMask, g_.cluster_size);
    }
  }
  if (header_.bitmaps) {
    overlap_map_.add(overlap::kBitmapDirectory, header_.bitmaps->directory_offset,
                     header_.bitmaps->directory_size);
  }
}

// --- look-up

Task<Result<Metadata::Piece*>> Metadata::load_piece(uint64_t guest) {
  const uint64_t index = g_.l1_index(guest);
  const uint64_t table = index < l1_.size() ? l1_[index] & kOffsetMask : 0;
  if (table == 0) co_return nullptr;
  if ((table & g_.cluster_mask()) != 0) {
    co_return io_error(
        co_await report(Corruption{true,
                                   fmt::format("L2 table offset {} unaligned (L1 index: {})",
                                               hex_text(table), hex_text(index)),
                                   {},
                                   {}}));
  }
  co_return co_await l2_cache_.load(table + g_.piece_in_table(guest));
}

// --- changing the map

Task<Result<Metadata::Piece*>> Metadata::writable_piece(uint64_t guest) {
  const uint64_t index = g_.l1_index(guest);
  BB_ASSERT(index < l1_.size());
  const uint64_t entry = l1_[index];
  const uint64_t table = entry & kOffsetMask;
  if ((table & g_.cluster_mask()) != 0) {
    co_return io_error(
        co_await report(Corruption{true,
                                   fmt::format("L2 table offset {} unaligned (L1 index: {})",
                                               hex_text(table), hex_text(index)),
                                   {},
                                   {}}));
  }
  if (table == 0 || (entry & kEntryCopied) == 0) co_return co_await new_l2_table(guest, table);
  // A table of the disk alone is no snapshot's.
  const uint32_t inactive = options_.overlap_checks & overlap::kInactiveL2;
  if (const uint32_t hit = overlap_map_.find(inactive, table, g_.cluster_size); hit != 0)
      [[unlikely]] {
    co_return io_error(co_await report_overlap(hit, table, g_.cluster_size));
  }
  co_return co_await piece_in_place(table, guest);
}

Task<Result<Metadata::Piece*>> Metadata::piece_in_place(uint64_t table, uint64_t guest) {
  if (room_is_due()) BB_CO_TRY(co_await write_back());
  constexpr uint32_t kL2 = overlap::kActiveL2 | overlap::kInactiveL2;
  const uint32_t hit = overlap_map_.find(options_.overlap_checks & ~kL2, table, g_.cluster_size);
  if (hit != 0) [[unlikely]] {
    co_return io_error(co_await report_overlap(hit, table, g_.cluster_size));
  }
  co_return co_await l2_cache_.load_for_change(table + g_.piece_in_table(guest));
}

Task<Result<Metadata::Piece*>> Metadata::new_l2_table(uint64_t guest, uint64_t old_table) {
  if (room_is_due()) BB_CO_TRY(co_await write_back());
  BB_CO_TRY(co_await l1_.place(file_, g_.l1_index(guest), DebugEvent::kL1Update));
  auto allocation = co_await allocate(1, "L2 table");
  if (!allocation) co_return io_error(allocation.error());
  const uint64_t table = allocation->host;
  const uint64_t in_table = g_.piece_in_table(guest);

  // Something is written in any case: the file must reach as far as what is referred to, and a disk
  // that is full must refuse now and not when entries of this table wait to be written.
  Buffer content;
  uint64_t content_at = table;
  if (old_table != 0) {
    content = Buffer(g_.cluster_size);
    co_await file_.debug_event(DebugEvent::kL2AllocCowRead);
    for (uint64_t at = 0; at < g_.cluster_size; at += g_.l2_piece_bytes) {
      auto old_piece = co_await l2_cache_.load(old_table + at);
      if (!old_piece) {
        (void)co_await give_back(table, g_.cluster_size);
        co_return io_error(old_piece.error());
      }
      std::memcpy(content.data() + at, (*old_piece)->data(), g_.l2_piece_bytes);
    }
  } else if (!allocation->fresh) {
    content = Buffer::zeroed(g_.cluster_size);
  } else {
    content = Buffer::zeroed(g_.l2_piece_bytes);
    content_at = table + in_table;
  }
  co_await file_.debug_event(DebugEvent::kL2AllocWrite);
  if (auto written = co_await file_.write(content_at, content.io()); !written) {
    (void)co_await give_back(table, g_.cluster_size);
    co_return io_error(written.error());
  }
  // Pieces left from an earlier life of the cluster.
  l2_cache_.drop(table, g_.cluster_size);
  Piece* piece = co_await l2_cache_.add_empty(table + in_table);
  if (old_table != 0) {
    std::memcpy(piece->data(), content.data() + in_table, g_.l2_piece_bytes);
    free_table_later(overlap::kActiveL2, old_table, g_.cluster_size, FreeReason::kOther);
  } else {
    std::memset(piece->data(), 0, g_.l2_piece_bytes);
  }
  piece->placed = true;
  overlap_map_.add(overlap::kActiveL2, table, g_.cluster_size);
  l1_.set(g_.l1_index(guest), table | kEntryCopied);
  ++unsynced_references_;
  co_return piece;
}

void Metadata::drop_l2_table(uint64_t l1_index, FreeReason reason) {
  const uint64_t table = l1_[l1_index] & kOffsetMask;
  if (table == 0) return;
  l1_.set(l1_index, 0);
  free_table_later(overlap::kActiveL2, table, g_.cluster_size, reason);
}

Task<Result<void>> Metadata::grow_l1(uint64_t entries) {
  if (entries <= l1_.size()) co_return Result<void>();
  if (entries > kMaxL1Bytes / 8) co_return io_error(EFBIG);
  // Counts and L2 tables that the new table will refer to come first.
  BB_CO_TRY(co_await write_back());
  const uint64_t bytes = align_up(entries * 8, g_.cluster_size);
  co_await file_.debug_event(DebugEvent::kL1GrowAllocTable);
  auto allocation = co_await allocate(bytes >> g_.cluster_bits, "L1 table");
  if (!allocation) co_return io_error(allocation.error());
  std::vector<uint64_t> table = l1_.entries();
  table.resize(entries);
  const Buffer content = ResidentTable::to_file(table, entries * 8);
  co_await file_.debug_event(DebugEvent::kL1GrowWriteTable);
  auto done = co_await file_.write(allocation->host, content.io());
  if (done) done = co_await refcount_cache_.write_dirty();
  if (done) done = co_await write_back();
  if (done) done = co_await barrier();
  if (done) {
    Header next = header_;
    next.l1_size = static_cast<uint32_t>(entries);
    next.l1_offset = allocation->host;
    co_await file_.debug_event(DebugEvent::kL1GrowActivateTable);
    done = co_await switch_header(std::move(next));
  }
  if (!done) {
    // Leaked rather than reused while the header may refer to it.
    if (!header_unsure_) (void)co_await give_back(allocation->host, bytes);
    co_return io_error(done.error());
  }
  const uint64_t old_offset = l1_.offset();
  const uint64_t old_bytes = l1_.bytes();
  if (old_bytes > 0) {
    free_table_later(overlap::kActiveL1, old_offset, align_up(old_bytes, g_.cluster_size),
                     FreeReason::kOther);
  }
  overlap_map_.add(overlap::kActiveL1, allocation->host, bytes);
  l1_.adopt(allocation->host, std::move(table));
  co_return Result<void>();
}

// --- header

Task<Result<void>> Metadata::write_header_field(uint64_t position, const void* bytes,
                                                std::size_t length) {
  IoVector memory(const_cast<void*>(bytes), length);
  BB_CO_TRY(co_await file_.write(position, std::move(memory)));
  co_return co_await file_.flush();
}

Task<Result<void>> Metadata::set_size(uint64_t size) {
  Header next = header_;
  next.size = size;
  co_return co_await switch_header(std::move(next));
}

Task<Result<void>> Metadata::set_incompatible(uint64_t bits) {
  std::byte bytes[8];
  store_be64(bytes, bits);
  BB_CO_TRY(co_await write_header_field(field::kIncompatible, bytes, sizeof(bytes)));
  header_.incompatible_features = bits;
  co_return Result<void>();
}

Task<Result<void>> Metadata::rewrite_header(Header header) {
  auto bytes = serialise_header(header);
  if (!bytes) co_return io_error(ENOSPC);
  BB_CO_TRY(co_await file_.write(0, IoVector(std::span<const std::byte>(*bytes))));
  BB_CO_TRY(co_await file_.flush());
  header_ = std::move(header);
  co_return Result<void>();
}

// --- corruption

Task<Errno> Metadata::report(Corruption corruption) {
  corruption.fatal = corruption.fatal && options_.writable;
  if (!failed_ && (corruption.fatal || !corruption_reported_)) {
    corruption_reported_ = true;
    if (on_corruption) on_corruption(corruption);
    if (corruption.fatal) {
      failed_ = true;
      // The next one to open it must know; if even this write fails there is nothing left to do.
      if (g_.version >= 3) {
        header_.incompatible_features |= incompatible::kCorrupt;
        (void)co_await set_incompatible(header_.incompatible_features);
      }
    }
  }
  co_return Errno(EIO);
}

Task<Errno> Metadata::report_overlap(uint32_t hit, uint64_t host, uint64_t bytes) {
  co_return co_await report(
      Corruption{true,
                 fmt::format("Preventing invalid write on metadata (overlaps with {})",
                             overlap::class_words(hit)),
                 host, bytes});
}

Task<Errno> Metadata::report_unaligned(uint64_t host, uint64_t table, uint64_t index) {
  co_return co_await report(
      Corruption{true,
                 fmt::format("Cluster allocation offset {} unaligned (L2 offset: {}, L2 index: {})",
                             hex_text(host), hex_text(table), hex_text(index)),
                 {},
                 {}});
}

Task<void> Metadata::report_kept(uint32_t hit, uint64_t host) {
  (void)co_await report(Corruption{false,
                                   fmt::format("Cannot free cluster {} (overlaps with {})",
                                               hex_text(host), overlap::class_words(hit)),
                                   host, g_.cluster_size});
}

// --- life

Task<Result<void>> Metadata::close() {
  if (!ready_for_writing_ || failed_) co_return Result<void>();
  MutexGuard guard = co_await mutex_.lock();
  BB_ASSERT(oldest_request_ == nullptr);
  BB_CO_TRY(co_await write_back());
  BB_CO_TRY(co_await refcount_cache_.write_dirty());
  BB_ASSERT(clean());
  BB_CO_TRY(co_await barrier());
  if (header_.has(incompatible::kDirty)) {
    BB_CO_TRY(co_await set_incompatible(header_.incompatible_features & ~incompatible::kDirty));
  }
  co_return Result<void>();
}

Task<Expected<void>> Metadata::reload(Header header) {
  BB_ASSERT(clean());
  header_ = std::move(header);
  const bool external = g_.external_data;
  g_ = header_.geometry(options_.l2_piece_bytes);
  BB_ASSERT(g_.external_data == external);
  l2_cache_.drop_all();
  refcount_cache_.drop_all();
  free_hint_ = 0;
  compressed_end_ = 0;
  ready_for_writing_ = false;
  co_return co_await open();
}

}  // namespace blockbed::qcow2
