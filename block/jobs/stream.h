// stream: brings the data of backing files up into the image above them, which then needs them no
// more.
//
// Problem: a guest goes on with its disk while what its image shows of the files below is copied
// into the image itself; then the files in between are dropped from the chain.
//
// Contract
//  - create() is called with the graph lock held and the top drained. It puts a copy-on-read filter
//    over the top, makes the top writable if it was not, and leaves nothing behind when it fails.
//    After it the job is started or abandoned.
//  - From the top to the lowest image that is brought up the chain is frozen by the filter; what is
//    below that may change while the job runs: what stands there at the end becomes the backing
//    file.
//  - At the end the image's header and the link to the backing file change together: when either
//    cannot be, neither is.
//  - Errors go by on_error. What was ignored is left out, and the job fails in the end: the backing
//    files are still needed.
// Source of the rules: block-stream of QEMU 7.2, its checks in its order, with its texts.
// Threading: engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/filters/rate_limit.h"
#include "block/graph/backend.h"
#include "block/graph/frozen_chain.h"
#include "block/graph/writable.h"
#include "block/jobs/block_job.h"
#include "block/jobs/stream_walk.h"

namespace blockbed {

struct StreamOptions {
  JobParameters job;
  // The client gave job.id; otherwise an empty one becomes the device's name.
  bool named = false;
  NodeRef top;
  // At most one of them: what stays as backing file, or the lowest image that is brought up. None:
  // everything is.
  NodeRef base;
  NodeRef bottom;
  // The name of the backing file to write into the image; none: that of the file.
  std::optional<std::string> backing_file;
  int64_t speed = 0;
  OnError on_error = OnError::kReport;
  // None: a generated name.
  std::optional<std::string> filter_node_name;

  StreamOptions() = default;
};

class StreamJob final : public BlockJob {
 public:
  static Task<Expected<std::shared_ptr<StreamJob>>> create(JobRegistry& registry,
                                                           StreamOptions options);

  // Which nodes the job is about.
  struct Place {
    NodeRef top;
    // The top without its filters: where the data goes.
    NodeRef image;
    // The lowest image that is brought up.
    NodeRef bottom;
    // The node whose next is the base: the bottom, or a filter between it and the base.
    NodeRef above_base;
    NodeRef filter;
    // From the bottom to the base; what lies above, the filter holds.
    FrozenChain held;
    WritableNodes made_writable;
  };
  StreamJob(JobRegistry& registry, StreamOptions options, Place place);

  std::string_view type() const override { return "stream"; }

 protected:
  Task<JobResult> run() override;
  Task<JobResult> prepare() override;
  Task<void> clean() override;
  void interrupted() override;
  void speed_changed() override;

 private:
  Expected<void> attach();
  // The filter and all edges of the job.
  Task<void> leave_graph();
  Expected<void> link_to(Node* base);
  Task<JobResult> name_in_header(Node* base);

  StreamOptions options_;
  Place place_;
  std::unique_ptr<Backend> reader_;
  RateLimit rate_limit_;
  std::optional<StreamWalk> walk_;
};

}  // namespace blockbed
