// Image: an open qcow2 image: requests of the disk carried out on its file.
//
// Problem: the mapping says where bytes are (mapping.h), the metadata keeps the tables right
// (metadata.h); here requests are cut into runs, and runs into reads and writes of the file.
//
// Contract
//  - Requests may run in parallel. Overlapping ones give either's bytes cluster by cluster; a
//    request that changes the map of a cluster waits for one that is allocating it.
//  - Reading and overwriting of what is allocated takes no lock and allocates no memory when the
//    table pieces are cached. A run of clusters that is contiguous in the file is one request to
//    it.
//  - write() beyond the disk's end is the caller's mistake (the node checks bounds).
//  - After a fatal corruption every request fails with ENOMEDIUM.
// Units: bytes. Errors: errno on requests; texts for clients where Expected is returned.
// Threading: engine thread; codecs run on worker threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "block/formats/qcow2/mapping.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/snapshots.h"
#include "block/graph/request.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2 {

struct ImageStatus {
  uint64_t length = 0;
  Kind kind = Kind::kUnallocated;
  // kData, and kZero with a preallocated cluster: the place in the data file.
  std::optional<uint64_t> host;
};

class Image {
 public:
  // `backing` may have nothing attached; it and the storages outlive the image.
  Image(Env& env, Storage& file, Storage* data, Backing& backing, Header header,
        MetadataOptions options);

  Task<Expected<void>> open();
  // No request is in flight. Afterwards the file is consistent and nothing is cached dirty.
  Task<Result<void>> close() { return metadata_.close(); }

  Metadata& metadata() { return metadata_; }
  const Geometry& geometry() const { return metadata_.geometry(); }
  const Header& header() const { return metadata_.header(); }
  uint64_t length() const { return metadata_.header().size; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers);
  Task<Result<void>> write(uint64_t offset, IoVector buffers);
  // A range of `source` that the host copies. Some of it may have been when that fails, with
  // ENOTSUP when the host cannot.
  Task<Result<void>> copy_from(File& source, uint64_t source_offset, uint64_t offset,
                               uint64_t length);
  // ENOTSUP: the caller writes zero bytes.
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags);
  // ENOTSUP: not possible here, which callers treat as done nothing.
  Task<Result<void>> discard(uint64_t offset, uint64_t length);
  // Gives all clusters of the disk back, so that the backing file shows through. Snapshots keep
  // theirs.
  Task<Result<void>> make_empty();
  // Whole clusters, or up to the end of the disk.
  Task<Result<void>> write_compressed(uint64_t offset, IoVector buffers);
  // To the file; durable after the file was flushed.
  Task<Result<void>> flush();
  Task<Result<ImageStatus>> status(uint64_t offset, uint64_t length);

  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options);

  // --- internal snapshots (snapshot_*.cpp). No request is in flight while one is made, applied or
  // deleted: the caller has drained the disk. What fails leaves the image as it was, but for leaks.
  const std::vector<Snapshot>& snapshots() const { return snapshots_.snapshots; }
  // Of the disk as it is now, with `snapshot`'s name, dates and size of VM state; the id it was
  // given. The VM state itself goes over to the snapshot. EFBIG: too many; EINVAL: the counts are
  // too narrow; ENOTSUP: external data file.
  Task<Result<std::string>> create_snapshot(Snapshot snapshot);
  // The disk is again what it was, its length too. An error that comes when that is done (old
  // clusters could not be freed) is told as well.
  Task<Expected<void>> apply_snapshot(std::size_t index);
  // The same holds for an error that comes when it is gone.
  Task<Expected<void>> delete_snapshot(std::size_t index);
  // What is read from now on is the snapshot, at the length of the disk. Nothing was written, nor
  // ever is.
  Task<Expected<void>> show_snapshot(std::size_t index);
  // The VM state lies behind the disk's end; `position` counts from its start. It is any number of
  // bytes; what was never written reads as zeroes.
  Task<Result<void>> write_vm_state(uint64_t position, IoVector buffers);
  Task<Result<void>> read_vm_state(uint64_t position, IoVector buffers);
  uint64_t vm_state_offset() const;

  // --- for amend(); no request is in flight and writing has begun.
  // All is on the disk, and read again as the header says.
  Task<Expected<void>> reload();
  Task<Expected<void>> change_refcount_width(uint32_t order);
  // Of the disk or a snapshot.
  Task<Result<bool>> has_compressed();
  // No entry of an L2 table has the zero flag any more, which version 2 does not know.
  Task<Result<void>> expand_zeroes();

  // Marks bitmaps as in use before the first write; see order_of_writes.md. What changes the disk
  // or its size begins with it.
  Task<Result<void>> begin_writing();
  bool writing() const { return writing_; }
  // The bitmaps are up to date: the next write marks them again. No request is in flight.
  void end_writing() { writing_ = false; }

 private:
  // A cluster range whose map is about to change, after data was written.
  struct InFlight {
    uint64_t begin = 0;
    uint64_t end = 0;
    InFlight* previous = nullptr;
    InFlight* next = nullptr;
  };
  void enter(InFlight& change);
  void leave(InFlight& change);

  // --- reading
  Task<Result<void>> read_unguarded(uint64_t offset, IoVector buffers);
  // The longest run that is read in one way, over the borders of pieces and tables as long as that
  // costs no I/O; map_read_cached() is for callers in a hurry: false when its beginning costs I/O.
  Task<Result<ReadRun>> map_read(uint64_t guest, uint64_t length);
  bool map_read_cached(uint64_t guest, uint64_t length, ReadRun& run);
  // As far as one piece tells.
  bool map_read_here(uint64_t guest, uint64_t length, ReadRun& run);
  ReadRun without_table(uint64_t guest, uint64_t length) const;
  void extend(ReadRun& run, uint64_t guest, uint64_t length);
  Task<Result<void>> read_run(ReadRun run, uint64_t guest, IoVector buffers);
  Task<Result<void>> read_backing(uint64_t guest, IoVector buffers);
  Task<Result<void>> read_compressed(uint64_t entry, uint64_t guest, IoVector buffers);
  // `writing`: found by a write that wanted to use the cluster.
  Task<Errno> report_fault(Fault fault, uint64_t guest, bool writing = false);

  // --- writing
  // Bytes [begin, end) of the disk that must be written along, because their (sub)cluster is new.
  struct CowPart {
    uint64_t begin = 0;
    uint64_t end = 0;
    // Reads as zeroes for sure.
    bool zero = false;
    uint64_t length() const { return end - begin; }
  };
  struct WritePlan {
    WriteKind kind = WriteKind::kInPlace;
    uint64_t guest = 0;
    uint64_t length = 0;
    // Of the first byte of data.
    uint64_t host = 0;
    bool fresh = false;
    CowPart head;
    CowPart tail;
  };
  // What is written: bytes in memory, or a range of a file that the host copies.
  struct Payload {
    IoVector buffers;
    File* source = nullptr;
    uint64_t source_offset = 0;
    uint64_t size = 0;

    explicit Payload(IoVector bytes) : buffers(std::move(bytes)), size(buffers.size()) {}
    Payload(File& from, uint64_t offset, uint64_t length)
        : source(&from), source_offset(offset), size(length) {}
    void shorten(uint64_t length) {
      if (source == nullptr && length < size) buffers = buffers.slice(0, length);
      size = length;
    }
  };
  // After a write that failed: whether it is worth another try, since the storage was full and
  // clusters that waited for a flush are free now.
  Task<bool> make_room(Errno failure);
  // Writes a run at the start of `payload`; its length, or 0 when there was no room and there is
  // now: the caller goes on in both cases.
  Task<Result<uint64_t>> write_some(uint64_t guest, Payload payload);
  Task<Result<uint64_t>> write_run(uint64_t guest, Payload payload);
  // [locked] What the first run of the range needs; allocates.
  Task<Result<void>> plan_write(uint64_t guest, uint64_t length, WritePlan& plan);
  Task<Result<void>> write_with_cow(const WritePlan& plan, Payload payload);
  Task<Result<void>> copy_with_cow(const WritePlan& plan, const Payload& payload);
  // kThere: it was read, and what the file has there is the same.
  enum class CowNeed : uint8_t { kNothing, kThere, kWrite };
  Task<Result<CowNeed>> fetch_cow(const CowPart& part, bool fresh, Buffer& into);
  // What guest data would go over there: bits of overlap::, 0 where it may lie.
  uint32_t metadata_at(uint64_t host, uint64_t size) const;
  // EIO when it would go over metadata, which is reported.
  Task<Result<void>> check_place(uint64_t host, uint64_t size);
  Task<Result<void>> write_data(uint64_t host, IoVector buffers);
  Task<Result<void>> copy_data(uint64_t host, const Payload& payload);
  // [locked]
  Task<Result<void>> link(const WritePlan& plan);
  bool reads_zero(Kind kind, uint64_t begin) const;
  // The first byte at or behind `begin` that a change in flight covers; UINT64_MAX when none.
  uint64_t next_in_flight(uint64_t begin) const;
  // The lock, at a moment when no change in flight meets the range.
  Task<MutexGuard> lock_range(uint64_t begin, uint64_t end);
  Task<Result<void>> write_compressed_cluster(uint64_t guest, IoVector buffers);
  Task<Result<void>> store_compressed(uint64_t guest, IoVector packed);
  // Codecs at work on workers, twice what QEMU has; the other workers are for who waits for a file.
  static constexpr std::size_t kMaxCodecs = 8;

  // --- zeroing and discarding, a piece at a time
  enum class Change { kZero, kZeroUnmap, kDiscard, kRemove };
  // Whole clusters.
  Task<Result<void>> change_clusters(uint64_t begin, uint64_t end, Change change,
                                     FreeReason reason = FreeReason::kRequest);
  // The first cluster of [begin, end) whose entry changes, or cannot; `end` when there is none. All
  // of them have their entries in `piece`.
  uint64_t first_to_change(Metadata::Piece& piece, uint64_t begin, uint64_t end,
                           Change change) const;
  std::optional<L2Entry> changed_entry(L2Entry old, const ClusterState& state, Change change) const;
  // The disk keeps its cluster although nothing of it is data any more (discard-no-unref).
  bool keeps_cluster(const ClusterState& state, Change change) const;
  // [locked] The entry of one cluster, for a change of nothing but its flags.
  struct EntryToFlag {
    MutexGuard guard;
    Metadata::Piece* piece = nullptr;
    uint32_t index = 0;
    L2Entry entry;
    ClusterState state;
  };
  Task<Result<EntryToFlag>> entry_to_flag(uint64_t cluster);
  void put_entry(const EntryToFlag& changed);
  // Within one cluster, extended entries only. ENOTSUP: compressed.
  Task<Result<void>> zero_subclusters(uint64_t begin, uint64_t end);
  // The (sub)cluster at `begin`, of which nothing is allocated, gets the zero flag. False: by now
  // it holds something.
  Task<Result<bool>> flag_unallocated(uint64_t begin);
  // An end of a zero request that covers only a part of a (sub)cluster.
  Task<Result<void>> zero_part(uint64_t begin, uint64_t end, RequestFlags flags);
  // What such an end leaves of its (sub)cluster, where nothing is allocated.
  Task<bool> rest_reads_zero(uint64_t begin, uint64_t end);
  Task<Result<void>> write_zero_bytes(uint64_t begin, uint64_t end);

  // --- snapshots
  // For the overlap checks. Only those of L2 tables read anything.
  Task<Result<void>> protect_snapshots();
  // What shows through ends with the disk: a VM state behind it is the image's own.
  uint64_t backing_length() const { return std::min(backing_.length(), length()); }
  // [locked] A table of `snapshots` in new clusters.
  struct NewTable {
    uint64_t host = 0;
    uint64_t bytes = 0;
  };
  Task<Result<NewTable>> write_snapshot_table(const std::vector<Snapshot>& snapshots);
  Task<Result<NewTable>> write_l1(const std::vector<uint64_t>& entries);
  // [locked] After a switch: what is known of the tables is brought in line.
  Task<void> adopt_snapshots(std::vector<Snapshot> snapshots, uint64_t table_bytes);

  // --- another version (downgrade.cpp)
  struct HeldTable {
    uint64_t host = 0;
    // Entries of L1 tables that refer to it.
    uint64_t holders = 0;
  };
  // [locked] The L2 tables of the disk and its snapshots, each once. Those of the disk come first,
  // `active` of them.
  struct AllTables {
    std::vector<HeldTable> tables;
    std::size_t active = 0;
  };
  Task<Result<AllTables>> all_tables();
  Task<Result<void>> expand_table(const HeldTable& table);
  Task<Result<void>> expand_entry(const HeldTable& table, uint32_t index, uint64_t host);

  // --- size
  Task<Result<void>> drop_vm_state();
  Task<Result<void>> drop_entries_behind_end();
  Task<Expected<void>> grow(uint64_t length, TruncateOptions options);
  Task<Expected<void>> shrink(uint64_t length);
  Task<Expected<void>> cut_data_file(uint64_t length);
  Task<Expected<void>> preallocate(uint64_t begin, uint64_t end, Preallocation mode);
  Task<Expected<void>> extend_file(uint64_t length, Preallocation mode);

  Env& env_;
  Storage* const data_;
  Backing& backing_;
  Metadata metadata_;
  SnapshotTable snapshots_;
  InFlight* in_flight_ = nullptr;
  WaitQueue in_flight_ended_;
  Semaphore codecs_;
  bool writing_ = false;
};

}  // namespace blockbed::qcow2
