// commit: moves what some layers of a chain hold into the layer below them, and takes them out.
//
// Problem: a chain of snapshots grows; layers in its middle become one again while a guest goes on
// with the disk on top. (A commit of the topmost layer, which guests write to, is a mirror into a
// backing file: mirror.h.)
//
// Contract
//  - create() is called with the graph lock held. It makes the job (created), puts the commit_top
//    filter over `top`, freezes the chain from there to `base`, and leaves nothing behind when it
//    fails; after it the job is started or abandoned.
//  - The base grows when `top` is longer.
//  - At the end the base is durable before the images above name it as their backing file, and both
//    happen before anything else changes: whenever the power fails, the chain that the images name
//    shows the disk. Then the base takes the place of `top` in the graph.
//  - Errors go by the one policy, whether they are of reads or of writes.
// Source of the rules: block-commit of QEMU 7.2, its checks in its order, with its texts.
// Threading: engine thread only.
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

struct CommitOptions {
  JobParameters job;
  // The client gave job.id; otherwise an empty one becomes the device's name.
  bool named = false;
  // The disk, whose chain has the others.
  NodeRef disk;
  // The layer above `top`.
  NodeRef overlay;
  NodeRef top;
  NodeRef base;
  // What the overlay's image names from then on; the base, when none.
  std::optional<std::string> backing_file;
  int64_t speed = 0;
  OnError on_error = OnError::kReport;
  // None: a generated name, and reports look through the filter.
  std::optional<std::string> filter_node_name;

  CommitOptions() = default;
};

class CommitJob final : public BlockJob {
 public:
  static Task<Expected<std::shared_ptr<CommitJob>>> create(JobRegistry& registry,
                                                           CommitOptions options);

  CommitJob(JobRegistry& registry, CommitOptions options);

  std::string_view type() const override { return "commit"; }

 protected:
  Task<JobResult> run() override;
  Task<JobResult> prepare() override;
  Task<void> clean() override;
  void interrupted() override;
  void speed_changed() override;

 private:
  Task<Expected<void>> attach();
  Task<JobResult> copy_all();
  // Marks what the layers hold, from `offset` on, until that is enough to be busy with; the offset
  // where it stopped.
  Task<std::expected<uint64_t, JobFailure>> mark_from(uint64_t offset);
  Task<JobResult> copy_marked();
  Task<Expected<void>> rename_backing(Node& image, std::string name, std::string format);
  Expected<void> take_out();

  CommitOptions options_;
  WritableNodes opened_;
  NodeRef filter_;
  std::optional<Backend> top_;
  std::optional<Backend> base_;
  FrozenChain frozen_;
  RateLimit rate_limit_;
  std::optional<MirrorCopy> copy_;
  // The pass that is going on.
  MirrorCopy::Pass* pass_ = nullptr;
  // Bytes behind which the job has not come, without those that are marked.
  uint64_t ahead_ = 0;
  DrainedSection drained_;
};

}  // namespace blockbed
