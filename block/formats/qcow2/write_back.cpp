// Metadata: the order in which changes reach the file. The numbers are the steps of
// order_of_writes.md.
#include "block/formats/qcow2/metadata.h"

namespace blockbed::qcow2 {

Task<Result<void>> Metadata::barrier() {
  if (data_ != nullptr) BB_CO_TRY(co_await data_->flush());
  co_return co_await file_.flush();
}

Task<Result<void>> Metadata::sync_ahead() {
  // A flush of little costs no less than one of nothing: two in a row would take twice as long.
  constexpr uint32_t kMany = 64;
  if (unsynced_references_ > kMany) BB_CO_TRY(co_await barrier());
  co_return Result<void>();
}

Task<Result<void>> Metadata::mark_dirty_bit() {
  if (header_.has(incompatible::kDirty)) co_return Result<void>();
  co_return co_await set_incompatible(header_.incompatible_features | incompatible::kDirty);
}

Task<Result<void>> Metadata::write_back() {
  if (failed_) co_return io_error(EIO);
  if (header_unsure_) BB_CO_TRY(co_await write_table_fields(header_));
  const bool lazy = options_.lazy_refcounts && g_.version >= 3;
  // 2
  if (!lazy) BB_CO_TRY(co_await refcount_cache_.write_dirty());
  if (l2_cache_.dirty_count() > 0 || l1_.dirty() || refcount_table_.dirty()) {
    // 3
    if (unsynced_references_ > 0) {
      if (lazy) BB_CO_TRY(co_await mark_dirty_bit());
      BB_CO_TRY(co_await barrier());
    }
    // 4
    if (refcount_table_.dirty()) {
      BB_CO_TRY(co_await refcount_table_.write_dirty(file_, DebugEvent::kRefblockAllocHookup));
      BB_CO_TRY(co_await file_.flush());
    }
    // 5
    BB_CO_TRY(co_await l2_cache_.write_dirty());
    // 6
    if (l1_.dirty()) {
      BB_CO_TRY(co_await file_.flush());
      BB_CO_TRY(co_await l1_.write_dirty(file_, DebugEvent::kL1Update));
    }
    unsynced_references_ = 0;
  }
  if (pending_.empty()) co_return Result<void>();
  co_return co_await apply_frees();
}

bool Metadata::discards(FreeReason reason) const {
  switch (reason) {
    case FreeReason::kRequest:
      return options_.discard_request;
    case FreeReason::kSnapshot:
      return options_.discard_snapshot;
    case FreeReason::kOther:
      return options_.discard_other;
    case FreeReason::kCut:
      return true;
    case FreeReason::kNever:
      return false;
  }
  return false;
}

Task<Result<void>> Metadata::apply_frees() {
  const uint64_t oldest = oldest_running();
  // In the order of freeing, so what may be applied is at the front.
  std::size_t ready = 0;
  while (ready < pending_.size() && pending_[ready].when <= oldest) ++ready;
  if (ready > 0) {
    // 7
    BB_CO_TRY(co_await file_.flush());
    // 8
    std::vector<PendingFree> frees(pending_.begin(),
                                   pending_.begin() + static_cast<std::ptrdiff_t>(ready));
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(ready));
    for (const PendingFree& free : frees) count_pending(free, false);
    for (const PendingFree& free : frees) {
      std::vector<HostRange> unused;
      if (free.of == FreeOf::kPlace) {
        if (!g_.external_data && overlap(free.host, free.bytes) != 0) continue;
        unused.push_back(HostRange{free.host, free.bytes});
      } else {
        if (free.of == FreeOf::kTable) l2_cache_.drop(free.host, free.bytes);
        const uint64_t first = free.host >> g_.cluster_bits;
        const uint64_t last = (free.host + free.bytes - 1) >> g_.cluster_bits;
        co_await file_.debug_event(DebugEvent::kClusterFree);
        // A count that was wrong before stays wrong: a check finds it.
        (void)co_await change_counts(first, last - first + 1, -1, &unused);
        for (const HostRange& range : unused) freed_bytes_ += range.bytes;
      }
      if (!discards(free.reason)) continue;
      Storage& where = free.of == FreeOf::kPlace ? data() : file_;
      // Giving space back is a wish: a file that cannot is no failure.
      for (const HostRange& range : unused) (void)co_await where.discard(range.host, range.bytes);
    }
    if (!(options_.lazy_refcounts && g_.version >= 3)) {
      BB_CO_TRY(co_await refcount_cache_.write_dirty());
    }
  }
  pending_limit_ = pending_.size() + kPendingFrees;
  pending_space_limit_ = pending_space_ + kPendingSpace;
  co_return Result<void>();
}

}  // namespace blockbed::qcow2
