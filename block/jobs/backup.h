// backup: copies a disk as it was at one instant while it goes on being written.
//
// Problem: the instant is when the command ran. From then on a copy-before-write filter stands over
// the source, and this job walks over the disk with the filter's engine; both write to the same
// target.
//
// Contract
//  - create() is called with the graph lock held and the source drained: that drained section is
//    the instant. It puts the filter in, makes the job (created) and leaves nothing behind when it
//    fails; after it the job is started or abandoned.
//  - sync none copies only what guests overwrite and goes on until it is cancelled or completed
//    (completing it is Blockbed's own, for fleecing). top skips what the source's top layer does
//    not have.
//  - With a bitmap of the source (bitmap_mode other than never) its marks are frozen at the instant
//    and the bitmap is busy until the end. A success, and with `always` any end, takes what was
//    copied off the marks: those of writes since the instant stay, and so does what was not copied.
//    Otherwise all marks stay. sync bitmap copies only what is marked.
//  - Errors of the walk go by the two policies; ignore and stop try the same clusters again. A
//    guest's write that cannot be saved fails at the guest.
// Source of the rules: drive-backup and blockdev-backup of QEMU 7.2, its checks in its order, with
// its texts. Threading: engine thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "block/filters/block_copy.h"
#include "block/filters/rate_limit.h"
#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"
#include "block/jobs/block_job.h"

namespace blockbed {

class CopyBeforeWrite;

enum class BackupSync { kFull, kTop, kNone, kBitmap };
// When the bitmap is brought up to date.
enum class BitmapMode { kNever, kOnSuccess, kAlways };

struct BackupOptions {
  JobParameters job;
  // The client gave job.id; otherwise an empty one becomes the device's name.
  bool named = false;
  NodeRef source;
  NodeRef target;
  BackupSync sync = BackupSync::kFull;
  // Of the source node, or null.
  DirtyBitmap* bitmap = nullptr;
  BitmapMode bitmap_mode = BitmapMode::kNever;
  int64_t speed = 0;
  bool compress = false;
  OnError on_source_error = OnError::kReport;
  OnError on_target_error = OnError::kReport;
  // None: a generated name.
  std::optional<std::string> filter_node_name;
  bool use_copy_range = false;
  int64_t max_workers = 64;
  int64_t max_chunk = 0;
  // Called when the options are good, before anything happens: the place for a caller's warning.
  std::function<void()> warn;

  BackupOptions() = default;
};

class BackupJob final : public BlockJob {
 public:
  static Task<Expected<std::shared_ptr<BackupJob>>> create(JobRegistry& registry,
                                                           BackupOptions options);

  BackupJob(JobRegistry& registry, BackupOptions options, NodeRef filter);

  std::string_view type() const override { return "backup"; }
  Node& filter() const { return *filter_; }

 protected:
  Task<JobResult> run() override;
  Task<void> clean() override;
  Task<Expected<void>> complete() override;
  bool completes_while_running() const override { return options_.sync == BackupSync::kNone; }
  void interrupted() override;
  void speed_changed() override;

 private:
  static Expected<void> check(const BackupOptions& options);
  static Graph::OpenRequest describe_filter(const BackupOptions& options);
  Expected<void> attach();

  void freeze_bitmap();
  void thaw_bitmap();

  Task<JobResult> wait_for_end();
  Task<JobResult> leave_out_unallocated();
  Task<JobResult> copy_all();

  BackupOptions options_;
  NodeRef filter_;
  BlockCopy& engine_;
  // While the marks are frozen.
  DirtyBitmap::Use bitmap_;
  RateLimit rate_limit_;
  // The walk that is going on.
  BlockCopy::Run* run_ = nullptr;
  bool complete_ = false;
};

}  // namespace blockbed
