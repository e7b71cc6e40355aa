// Metadata: the tables of an image in memory, its clusters, and the order in which changes reach
// the file.
//
// Problem: mapping a guest range, allocating a cluster and dropping one all change tables that
// refer to each other. Writing each change at once would be slow; writing them in any order would
// let a crash corrupt the image. So they change in memory, and one function (write_back) brings
// them to the file in the order of order_of_writes.md.
//
// Contract
//  - Reading tables (l1(), find_piece, load_piece) needs no lock. Every change needs lock(): who
//    calls a function marked [locked] holds the guard.
//  - free_later() takes a reference away only after the change that dropped it is on the disk and
//    every request that started before has ended (RequestGuard); until then the cluster is not
//    reused. allocate() sees to that when enough is waiting and the file would grow,
//    use_what_waits() when it cannot.
//  - A function that fails leaves the tables usable: at worst clusters leak.
// Units: bytes; `host` is an offset in the file, `guest` one in the disk. Errors: errno; EIO after
// a corruption was seen. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/formats/qcow2/header.h"
#include "block/formats/qcow2/overlap.h"
#include "block/formats/qcow2/resident_table.h"
#include "block/formats/qcow2/storage.h"
#include "block/formats/qcow2/table_cache.h"
#include "block/runtime/sync.h"

namespace blockbed::qcow2 {

// A write_back that frees clusters costs two more flushes, so frees are put off until one happens
// for another reason, or so many are waiting.
inline constexpr std::size_t kPendingFrees = 4096;
// Or so much that the file is to give back: nobody may ever flush a disk that holds what is worth
// nothing after a crash.
inline constexpr uint64_t kPendingSpace = uint64_t{4} << 20;

// An allocation that would make the file grow writes back first when at least so many bytes wait to
// be freed: they are used again instead, and the flushes that this costs are few beside what was
// written meanwhile.
inline constexpr uint64_t kReuseBytes = uint64_t{1} << 20;
// Where that waits when it was of little use before.
inline constexpr uint64_t kMaxReuseBytes = uint64_t{1} << 30;

// Why a cluster lost a reference: decides whether the file is told (pass-discard-*).
enum class FreeReason : uint8_t {
  kRequest,
  kSnapshot,
  kOther,
  kCut,    // the disk shrinks: what is no part of it any more is space for others
  kNever,  // replaced by a new cluster: the place is reused soon anyway
};

struct MetadataOptions {
  std::size_t l2_pieces = 16;
  std::size_t refcount_pieces = 16;
  uint32_t l2_piece_bytes = kDefaultL2PieceBytes;
  bool lazy_refcounts = false;
  bool discard_request = false;
  bool discard_snapshot = true;
  bool discard_other = false;
  // discard-no-unref: clusters that are discarded or zeroed stay where they are, for later writes.
  bool discard_no_unref = false;
  uint32_t overlap_checks = overlap::kCached;
  // cache-clean-interval in seconds, 0 for never (cache_cleaner.h).
  uint32_t cache_clean_seconds = 0;
  // Tests lower it.
  uint64_t reuse_bytes = kReuseBytes;
  bool writable = false;

  MetadataOptions() = default;
  friend bool operator==(const MetadataOptions&, const MetadataOptions&) = default;
};

struct Corruption {
  bool fatal = true;
  std::string message;
  std::optional<uint64_t> offset;
  std::optional<uint64_t> size;
};

class Metadata {
 public:
  using Piece = TableCache::Piece;

  // `data` is the external data file, or null. All must outlive this.
  Metadata(Executor& executor, Storage& file, Storage* data, Header header,
           MetadataOptions options);
  ~Metadata();

  // Reads L1 and refcount table.
  Task<Expected<void>> open();
  // Everything to the file, and nothing left to do; the lock is free. Clears the dirty bit.
  Task<Result<void>> close();

  const Geometry& geometry() const { return g_; }
  const Header& header() const { return header_; }
  const MetadataOptions& options() const { return options_; }
  Storage& file() const { return file_; }
  // Where guest data lives.
  Storage& data() const { return data_ != nullptr ? *data_ : file_; }
  const ResidentTable& l1() const { return l1_; }
  const ResidentTable& refcount_table() const { return refcount_table_; }
  TableCache& l2_cache() { return l2_cache_; }
  TableCache& refcount_cache() { return refcount_cache_; }

  auto lock() { return mutex_.lock(); }

  // --- looking up
  enum class Lookup { kHere, kNoTable, kNotLoaded, kCorrupt };
  // The piece with the entry of `guest`, without I/O. kNotLoaded: load_piece() gets it.
  Lookup find_piece(uint64_t guest, Piece*& piece) {
    const uint64_t index = g_.l1_index(guest);
    const uint64_t table = index < l1_.size() ? l1_[index] & kOffsetMask : 0;
    if (table == 0) return Lookup::kNoTable;
    if ((table & g_.cluster_mask()) != 0) [[unlikely]]
      return Lookup::kCorrupt;
    piece = l2_cache_.find(table + g_.piece_in_table(guest));
    return piece != nullptr ? Lookup::kHere : Lookup::kNotLoaded;
  }
  // Null: there is no table. The pointer is good until the next suspension.
  Task<Result<Piece*>> load_piece(uint64_t guest);
  // The same, but also null when other L1 tables refer to the table.
  Task<Result<Piece*>> load_own_piece(uint64_t guest) {
    const uint64_t index = g_.l1_index(guest);
    const bool own = index < l1_.size() && (l1_[index] & kEntryCopied) != 0;
    if (!own) co_return nullptr;
    co_return co_await load_piece(guest);
  }

  // --- [locked] changing the map
  // The piece with the entry of `guest` in a table that only the active L1 table refers to: made or
  // copied when need be. Room for one dirty piece is kept.
  Task<Result<Piece*>> writable_piece(uint64_t guest);
  // The piece with the entry of `guest` in the L2 table at `table`, for a change that is right for
  // all who refer to it.
  Task<Result<Piece*>> piece_in_place(uint64_t table, uint64_t guest);
  // After entries of `piece` changed. `new_reference`: one refers to a cluster that the disk's
  // table does not refer to yet.
  void piece_changed(Piece& piece, bool new_reference) {
    l2_cache_.mark_dirty(piece);
    if (new_reference) ++unsynced_references_;
  }
  // Removes a whole L2 table from the active map (shrinking).
  void drop_l2_table(uint64_t l1_index, FreeReason reason = FreeReason::kOther);
  Task<Result<void>> grow_l1(uint64_t entries);
  // Refcount blocks that count nothing are dropped, and the file ends behind its last cluster in
  // use (shorten.cpp). A failure leaves a file that is longer than it must be.
  Task<Result<void>> shorten_file();
  // Counts of 2^order bits: complete in unused clusters before the header refers to them, in one
  // sector (image_amend.cpp). The caches are empty afterwards, the overlap map has the active
  // tables.
  Task<Expected<void>> change_refcount_width(uint32_t order);

  // --- [locked] clusters
  struct Allocation {
    uint64_t host = 0;
    // Never used since the file grew over it: reads as zeroes.
    bool fresh = false;
  };
  // What is written first into new clusters; it touches all of them.
  struct FirstWrite {
    uint64_t skip = 0;
    uint64_t bytes = 0;
  };
  // Contiguous clusters, each counted once. What would be written over metadata is not allocated;
  // the message names `write`, without it all of the clusters. `what` completes "Preventing invalid
  // allocation of ...".
  Task<Result<Allocation>> allocate(uint64_t clusters, const char* what,
                                    std::optional<FirstWrite> write = {});
  // Room for `bytes` of compressed data; clusters that it touches are counted once more.
  Task<Result<uint64_t>> allocate_bytes(uint64_t bytes);
  // Clusters that nothing ever referred to.
  Task<Result<void>> give_back(uint64_t host, uint64_t bytes);
  // kPlace: what is there is of no use, but the place stays what it was for. It may be discarded;
  // there is no count that falls.
  enum class FreeOf : uint8_t { kData, kTable, kPlace };
  void free_later(uint64_t host, uint64_t bytes, FreeReason reason, FreeOf of = FreeOf::kData);
  // A table of the active ones: its place is no metadata from now on. (`table_class`: of overlap::)
  void free_table_later(uint32_t table_class, uint64_t host, uint64_t bytes, FreeReason reason) {
    overlap_map_.remove(table_class, host, bytes);
    free_later(host, bytes, reason, FreeOf::kTable);
  }
  // [begin, end) of where guest data lives, whole clusters, is about to be used again: what was to
  // be discarded there is not. Nothing else keeps it apart where a cluster stays in its place.
  void keep_place(uint64_t begin, uint64_t end);
  // The cluster(s) that an L2 entry refers to: standard, preallocated or compressed.
  void free_entry_later(uint64_t entry, FreeReason reason);
  // The cluster of an entry that a request left without data, and that the entry keeps.
  void discard_place_later(uint64_t host);
  Task<Result<uint64_t>> refcount(uint64_t cluster);
  // Adds `delta` to the counts of the clusters that [host, host + bytes) touches.
  Task<Result<void>> add_refcounts(uint64_t host, uint64_t bytes, int delta);

  // --- [locked] to the file
  Task<Result<void>> write_back();
  // For who has met the end of the storage: whether a write_back has freed anything.
  Task<bool> use_what_waits();
  // Without the lock, before a write_back() that has much to make durable first: requests go on
  // meanwhile, and what is left to do under the lock is short.
  Task<Result<void>> sync_ahead();
  // Cheap test: write_back() would do nothing.
  bool clean() const {
    return l2_cache_.dirty_count() == 0 && refcount_cache_.dirty_count() == 0 && !l1_.dirty() &&
           !refcount_table_.dirty() && pending_.empty() && !header_unsure_;
  }
  // Puts off the counterpart of `pending frees`: true when so much is pending that a write_back is
  // due.
  bool frees_due() const {
    return pending_.size() > pending_limit_ || pending_space_ > pending_space_limit_;
  }

  // --- [locked] header
  // Rewrites one field (at most one sector), then a barrier.
  Task<Result<void>> write_header_field(uint64_t position, const void* bytes, std::size_t length);
  Task<Result<void>> set_size(uint64_t size);
  Task<Result<void>> set_incompatible(uint64_t bits);
  // Changes anything; ENOSPC when it does not fit into the first cluster.
  Task<Result<void>> rewrite_header(Header header);
  // Before the first change of anything: the refcount table is read, feature bits that are unknown
  // to us and say "clear me before writing" are cleared.
  bool ready_for_writing() const { return ready_for_writing_; }
  Task<Result<void>> prepare_for_writing();

  // --- [locked] other tables in place of the present ones (table_switch.cpp)
  // No request is in flight: nobody reads by the old tables.
  bool idle() const { return oldest_request_ == nullptr; }
  // Everything that changed is on the disk, counts too.
  Task<Result<void>> sync();
  struct TableSwitch {
    uint64_t size = 0;
    uint32_t snapshot_count = 0;
    uint64_t snapshots_offset = 0;
    // The active L1 table, when it is another one.
    bool other_l1 = false;
    uint64_t l1_offset = 0;
    std::vector<uint64_t> l1;
  };
  TableSwitch present_tables() const;
  // After sync(), as switch_header(). The caller frees what is old, and calls protect_tables().
  Task<Result<void>> switch_tables(TableSwitch next);
  // `next` differs in what names size, tables and counts: changed in one write of one sector, with
  // a barrier behind it; all that it refers to is on the disk. After a failure the header is as it
  // was; when even that could not be written, header_unsure(): both the old and the new tables may
  // be what the disk has, and the next write_back starts with the header.
  Task<Result<void>> switch_header(Header next);
  bool header_unsure() const { return header_unsure_; }
  // Other tables to read by, in an image that is not written to.
  void show_tables(uint64_t l1_offset, std::vector<uint64_t> l1) {
    BB_ASSERT(!ready_for_writing_);
    l1_.adopt(l1_offset, std::move(l1));
  }
  // The clusters of the active tables are known to the overlap checks, all others are forgotten.
  void protect_tables() { fill_overlap_map(); }
  // One reference less, at once: nothing on the disk refers to them by it any more. Clusters that
  // nobody refers to are discarded as the options say.
  Task<Result<void>> drop_reference(uint64_t host, uint64_t bytes, FreeReason reason, FreeOf of);
  // refcount() without I/O; nullopt: only that can tell.
  std::optional<uint64_t> refcount_here(uint64_t cluster);

  // --- corruption
  // EIO after a fatal one; the caller returns it.
  Task<Errno> report(Corruption corruption);
  bool failed() const { return failed_; }
  // Which header the disk has is not known: it is left as it is, and so is all else.
  void write_no_more() { failed_ = true; }
  std::function<void(const Corruption&)> on_corruption;
  // A write of guest data there would hit metadata: 0 or the class.
  uint32_t overlap(uint64_t host, uint64_t bytes) const {
    return overlap_map_.find(options_.overlap_checks, host, bytes);
  }
  OverlapMap& overlap_map() { return overlap_map_; }
  // Cold paths of a hit.
  Task<Errno> report_overlap(uint32_t hit, uint64_t host, uint64_t bytes);
  Task<void> report_kept(uint32_t hit, uint64_t host);
  // An entry of the L2 table at `table` that points to no cluster's start.
  Task<Errno> report_unaligned(uint64_t host, uint64_t table, uint64_t index);

  // Limits of the file that this image may use; tests lower it.
  void set_max_host(uint64_t max) { max_host_ = max; }
  // Tables replaced under us (repair, snapshot switch): caches are dropped, tables read again.
  Task<Expected<void>> reload(Header header);

  // --- requests in flight
  class RequestGuard {
   public:
    explicit RequestGuard(Metadata& metadata) : metadata_(metadata), number_(metadata.clock_++) {
      previous_ = metadata.newest_request_;
      (previous_ != nullptr ? previous_->next_ : metadata.oldest_request_) = this;
      metadata.newest_request_ = this;
    }
    RequestGuard(const RequestGuard&) = delete;
    RequestGuard& operator=(const RequestGuard&) = delete;
    ~RequestGuard() {
      (previous_ != nullptr ? previous_->next_ : metadata_.oldest_request_) = next_;
      (next_ != nullptr ? next_->previous_ : metadata_.newest_request_) = previous_;
    }

   private:
    friend class Metadata;
    Metadata& metadata_;
    uint64_t number_;
    RequestGuard* previous_ = nullptr;
    RequestGuard* next_ = nullptr;
  };

 private:
  struct PendingFree {
    uint64_t host;
    uint64_t bytes;
    // Requests with a smaller number may still use it.
    uint64_t when;
    FreeReason reason;
    FreeOf of;
  };
  struct HostRange {
    uint64_t host;
    uint64_t bytes;
  };

  Task<Result<void>> barrier();
  Task<Result<void>> apply_frees();
  // Of a block that exists. `for_change`: with room in the file for what it will hold.
  Task<Result<Piece*>> refcount_piece(uint64_t cluster, bool for_change = false);
  // `freed`: gets the ranges whose count became 0. The last reference to what holds metadata is not
  // taken away: it was a wrong one.
  Task<Result<void>> change_counts(uint64_t first, uint64_t clusters, int delta,
                                   std::vector<HostRange>* freed = nullptr);
  // allocate() for who has told the file what for.
  Task<Result<Allocation>> allocate_unannounced(uint64_t clusters, const char* what,
                                                std::optional<FirstWrite> write = {});
  Task<Result<uint64_t>> find_free(uint64_t clusters);
  // The file would grow to `end`, and a write_back gives enough for `clusters` back.
  bool should_reuse(uint64_t end, uint64_t clusters) const;
  Task<Result<void>> write_back_for_reuse();
  Task<Errno> report_free_header(uint64_t clusters, const char* what,
                                 const std::optional<FirstWrite>& write);
  Task<Result<void>> add_refcount_block(uint64_t index, uint64_t cluster);
  Task<Result<void>> grow_refcount_table(uint64_t entries);
  // Nothing is counted by it, but for its own cluster.
  Task<Result<bool>> block_is_empty(uint64_t index, bool& counts_itself);
  Task<Result<void>> drop_empty_blocks();
  // Behind the last cluster before `end` that is counted; 0 when none is.
  Task<Result<uint64_t>> end_of_use(uint64_t end);
  // Before one more piece of an L2 table is dirty.
  bool room_is_due() const {
    return l2_cache_.dirty_count() >= l2_cache_.max_dirty() || frees_due();
  }
  Task<Result<Piece*>> new_l2_table(uint64_t guest, uint64_t old_table);
  Task<Result<void>> mark_dirty_bit();
  Task<Result<void>> write_table_fields(const Header& fields);
  void fill_overlap_map();
  bool discards(FreeReason reason) const;
  void push_pending(const PendingFree& free);
  void count_pending(const PendingFree& free, bool more);
  uint64_t oldest_running() const {
    return oldest_request_ != nullptr ? oldest_request_->number_ : clock_;
  }

  Geometry g_;
  Header header_;
  MetadataOptions options_;
  Storage& file_;
  Storage* data_;
  Mutex mutex_;
  ResidentTable l1_;
  ResidentTable refcount_table_;
  TableCache l2_cache_;
  TableCache refcount_cache_;
  OverlapMap overlap_map_;

  // L2 or L1 in memory refer to what the disk may not have yet.
  uint32_t unsynced_references_ = 0;
  std::vector<PendingFree> pending_;
  std::size_t pending_limit_;
  // Of pending_ what lies in the file itself.
  uint64_t pending_bytes_ = 0;
  // What the files are to give back.
  uint64_t pending_space_ = 0;
  uint64_t pending_space_limit_ = kPendingSpace;
  // At least so much must wait; more after a write_back that gave less back than it seemed.
  uint64_t reuse_threshold_;
  // Since the image was opened.
  uint64_t freed_bytes_ = 0;
  // Where the search for free clusters goes on, by index.
  uint64_t free_hint_ = 0;
  // Beyond it nothing was ever allocated or written.
  uint64_t file_end_ = 0;
  // New clusters beyond file_end_ read as zeroes. If not, the file may be one that cannot grow.
  bool new_space_zero_ = false;
  uint64_t max_host_ = kMaxHostOffset;
  // Where the next compressed cluster may be packed behind the last one; 0 when nowhere.
  uint64_t compressed_end_ = 0;
  bool ready_for_writing_ = false;
  bool failed_ = false;
  bool corruption_reported_ = false;
  bool header_unsure_ = false;

  uint64_t clock_ = 1;
  RequestGuard* oldest_request_ = nullptr;
  RequestGuard* newest_request_ = nullptr;
};

}  // namespace blockbed::qcow2
