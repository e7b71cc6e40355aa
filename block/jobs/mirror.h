// mirror: keeps a target equal to a disk until the client says that it has it.
//
// Problem: a disk moves to another place, or into its own backing file, while a guest writes to it.
// The job copies what differs until nothing does; from then on it is ready, and the client chooses
// the instant at which the target takes the place of the disk, or remains as the copy of it.
//
// Contract
//  - create() is called with the graph lock held and the source drained. It puts the mirror_top
//    filter over the source, makes the job (created) and leaves nothing behind when it fails; after
//    it the job is started or abandoned.
//  - Once nothing differs the job is ready. Completed, it pivots: in one graph change the filter
//    goes and the target takes the place of the source (or of `replaces`) at all of its users.
//    Cancelled without force when it is ready, it ends well with the copy and without that change.
//  - The end is one instant: guests stand still while the last differences are copied. What fails
//    then fails the job, whatever the policies say; before, errors go by them.
//  - A mirror into a backing file of the source is an active commit, and goes by that name when
//    `commit` is set; the chain between them is frozen.
// Source of the rules: drive-mirror, blockdev-mirror and block-commit of QEMU 7.2, its checks in
// its order, with its texts. Threading: engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/filters/mirror_copy.h"
#include "block/filters/rate_limit.h"
#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/graph.h"
#include "block/graph/writable.h"
#include "block/jobs/block_job.h"

namespace blockbed {

enum class MirrorSync { kFull, kTop, kNone };

// What the target stands on when the job has ended well.
enum class MirrorBacking {
  kLeave,
  // What the source stands on, for sync top; the source, for none; nothing, for full.
  kSource,
  // What the target's image names.
  kOpen,
};

struct MirrorOptions {
  JobParameters job;
  // The client gave job.id; otherwise an empty one becomes the device's name.
  bool named = false;
  NodeRef source;
  NodeRef target;
  MirrorSync sync = MirrorSync::kFull;
  bool commit = false;
  // Guests' writes are on the target before they are acknowledged.
  bool write_blocking = false;
  int64_t speed = 0;
  // 0: chosen by the target.
  uint64_t granularity = 0;
  int64_t buffer_size = 0;
  OnError on_source_error = OnError::kReport;
  OnError on_target_error = OnError::kReport;
  // None: a generated name, and reports look through the filter.
  std::optional<std::string> filter_node_name;
  // The node that the target takes the place of; the source, when none.
  std::optional<std::string> replaces;
  bool unmap = true;
  // For sync full: what the target shows is not known to be zeroes.
  bool zero_target = true;
  MirrorBacking backing = MirrorBacking::kLeave;
  // Nodes that were made writable for the job, and are for reading again after it.
  WritableNodes opened;

  MirrorOptions() = default;
};

class MirrorJob final : public BlockJob {
 public:
  static Task<Expected<std::shared_ptr<MirrorJob>>> create(JobRegistry& registry,
                                                           MirrorOptions options);

  MirrorJob(JobRegistry& registry, MirrorOptions options, NodeRef filter,
            MirrorCopy::Settings settings);

  std::string_view type() const override { return options_.commit ? "commit" : "mirror"; }

 protected:
  Task<JobResult> run() override;
  Task<JobResult> prepare() override;
  Task<void> clean() override;
  Task<Expected<void>> complete() override;
  bool cancel_aborts(bool force) override;
  void interrupted() override;
  void speed_changed() override;

 private:
  static Expected<void> check(const MirrorOptions& options);
  Expected<void> attach();

  // Where guests' writes go to the target as well, nobody may write to the source while the target
  // is drained.
  class TargetUser final : public BackendUser {
   public:
    explicit TargetUser(MirrorJob& job) : job_(job) {}
    void drained_begin() override;
    void drained_end() override;
    bool drained_poll() override;

   private:
    MirrorJob& job_;
  };

  Node& source() const { return *options_.source; }
  Node& target() const { return *options_.target; }
  bool ready() const { return status() == JobStatus::kReady || status() == JobStatus::kStandby; }

  // run() without its end.
  Task<JobResult> work();
  bool target_fits() const;
  Task<JobResult> fit_target();
  Task<JobResult> mark_differences();
  Task<JobResult> zero_target();
  Task<JobResult> keep_equal();
  // One pass of copies; a flush. False: it failed, or was stopped, and is to be tried again.
  Task<std::expected<bool, JobFailure>> copy_once();
  Task<std::expected<bool, JobFailure>> flush_target();
  void guest_copy_failed(Errno error, bool is_read);

  Task<JobResult> copy_the_rest();
  Task<JobResult> pivot();
  // For kOpen: what the target's image names, if it is not open yet.
  Task<Expected<void>> open_backing();
  Expected<Node*> node_to_replace() const;
  Expected<void> change_backing(GraphChange& change);

  MirrorOptions options_;
  NodeRef filter_;
  std::optional<Backend> target_;
  TargetUser target_user_{*this};
  FrozenChain frozen_;
  RateLimit rate_limit_;
  std::optional<MirrorCopy> copy_;
  // The pass that is going on.
  MirrorCopy::Pass* pass_ = nullptr;
  std::optional<JobFailure> guest_failure_;
  // run() has nothing to do until something is marked.
  bool idle_ = false;
  // The client wants the end, and the target in place of the source.
  bool ending_ = false;
  bool pivots_ = false;
  NodeRef backing_;
  DrainedSection drained_;
};

}  // namespace blockbed
