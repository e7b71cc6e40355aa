// copy-before-write: a filter that saves what a guest is about to overwrite.
//
// Problem: a backup, or somebody who reads an instant of a running disk, needs the old bytes. This
// filter stands over the disk; before a write, discard or zeroing goes on, the clusters that it
// touches are copied to the target, once.
//
// Contract
//  - Requests wait for the copies of the clusters that they touch, no others. Reads do not wait.
//  - on-cbw-error: break-guest-write fails the guest's request with the copy's error;
//    break-snapshot lets it go on, and from then on nothing is copied: snapshot_error() says that
//    the target is no instant of the disk.
//  - cbw-timeout (seconds, 0 is none): a copy that takes longer counts as failed with ETIMEDOUT; it
//    still ends by itself.
//  - With `bitmap` only what it marks is saved.
//  - As a PointInTime (for snapshot-access): what was saved is read from the target, the rest from
//    the disk, where writes wait for such reads. Refused with EACCES is what `bitmap` does not
//    mark, what a reader has discarded, and everything once the snapshot is broken.
//  - While the filter is used, nobody else may write to the disk or resize it, and nobody resizes
//    the target. The instant keeps its length when the disk is resized through the filter. What is
//    cut off is not saved: readers of the instant are refused it from then on, and what the disk
//    gets there later is not saved either.
// Source of the rules: BlockdevOptionsCbw and the permissions that QEMU 7.2 shows for it.
// Threading: engine thread only.
#pragma once

#include <memory>
#include <optional>

#include "block/filters/block_copy.h"
#include "block/graph/driver.h"
#include "block/graph/point_in_time.h"
#include "block/runtime/gate.h"
#include "block/runtime/sync.h"

namespace blockbed {

class DirtyBitmap;
class OpenContext;

class CopyBeforeWrite final : public Driver, public PointInTime {
 public:
  enum class OnCopyError { kBreakGuestWrite, kBreakSnapshot };

  static Task<Expected<std::unique_ptr<Driver>>> open(OpenContext& context,
                                                      const schema::BlockdevOptions& options);

  CopyBeforeWrite(Node& node, Edge& source, Edge& target, uint64_t cluster_size);

  static constexpr const char* kName = "copy-before-write";
  // The driver of a node that is known to be such a filter.
  static CopyBeforeWrite& of(Node& node);

  BlockCopy& engine() { return engine_; }
  // The engine is told to leave something out: nobody knows then what of the instant the target
  // has, and nothing of it can be read.
  void refuse_readers() { refuses_readers_ = true; }
  std::optional<Errno> snapshot_error() const { return snapshot_error_; }

  std::string_view name() const override { return kName; }
  bool is_filter() const override { return true; }

  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) override;
  Task<Result<void>> discard(uint64_t offset, uint64_t length) override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t length, bool want_zero) override;

  bool honours_fua_write() const override { return true; }
  bool honours_fua_zero() const override { return true; }
  bool honours_unmap() const override { return true; }
  bool honours_no_fallback() const override { return true; }
  bool follows_changes() const override { return true; }
  // A guest that flushes means its disk, not the place where its past is kept.
  bool flush_reaches(const Edge& edge) const override { return &edge == &source_; }

  Task<Result<uint64_t>> length() override;
  Task<Expected<void>> truncate(uint64_t length, TruncateOptions options) override;
  void child_resized(Edge& edge) override;

  PermissionPair child_permissions(const Edge* edge, ChildRoles roles, PermissionPair parent,
                                   bool writable) const override;
  DriverInfo info() const override;
  // The filter goes by the name of the disk, and takes no space of its own.
  std::string exact_filename() const override;
  bool has_zero_init() const override;

  uint64_t instant_length() const override { return engine_.length(); }
  Task<Result<void>> read_instant(uint64_t offset, IoVector buffers) override;
  Task<Result<BlockStatus>> instant_status(uint64_t offset, uint64_t length,
                                           bool want_zero) override;
  // Whole clusters: the rest of the range stays as it is.
  Task<Result<void>> discard_instant(uint64_t offset, uint64_t length) override;

  bool drained_poll() const override { return timed_copies_.inside() > 0; }
  Task<void> close() override;

 private:
  struct TimedCopy;
  // Something that a reader of the instant learns from the disk itself.
  class DiskRead;

  // The bitmaps that readers of the instant go by.
  Expected<void> make_bitmaps(const DirtyBitmap* wanted);
  Task<Result<void>> before(uint64_t offset, uint64_t length, bool unchanged);
  Task<Result<void>> copy_within_timeout(uint64_t offset, uint64_t length);
  Task<void> copy_in_background(uint64_t offset, uint64_t length, std::shared_ptr<TimedCopy> copy);
  bool read_from_disk_in(uint64_t begin, uint64_t end) const;

  bool can_be_read(uint64_t offset, uint64_t length) const;
  // One place has all of it.
  struct InstantPart {
    Edge* place = nullptr;
    uint64_t length = 0;
  };
  InstantPart instant_part(uint64_t offset, uint64_t length);

  Edge& source_;
  Edge& target_;
  BlockCopy engine_;
  // Of this node, and shown there: what was saved for a guest, and so is to be read from the
  // target; what may be read at all.
  DirtyBitmap* done_ = nullptr;
  DirtyBitmap* access_ = nullptr;
  OnCopyError on_copy_error_ = OnCopyError::kBreakGuestWrite;
  int64_t timeout_ns_ = 0;
  std::optional<Errno> snapshot_error_;
  bool refuses_readers_ = false;
  DiskRead* disk_reads_ = nullptr;
  WaitQueue disk_read_ended_;
  // Copies whose request may have given up waiting.
  Gate timed_copies_;
};

}  // namespace blockbed
