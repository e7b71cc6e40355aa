// bitmap-populate: marks in a dirty bitmap what an image has of its own.
//
// Problem: who loses a bitmap, or begins with one in the middle of a chain of backups, needs one
// that says "all that this image holds": a backup by it copies the image and not the layers below.
//
// Contract
//  - create() is called with the graph lock held. The bitmap is in use until the end, and goes on
//    recording. What is found is remembered apart and joins its marks when the job is finalised; a
//    job that fails or is cancelled leaves them as they were.
//  - What is written while the job looks is found by it or not; a bitmap that records has it
//    anyhow.
//  - The node's size does not change meanwhile.
// Source: Blockbed's own; the name and the arguments were proposed for QEMU. Threading: engine
// thread only.
#pragma once

#include <memory>

#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"
#include "block/jobs/block_job.h"

namespace blockbed {

struct BitmapPopulateOptions {
  JobParameters job;
  NodeRef node;
  // Of that node.
  DirtyBitmap* bitmap = nullptr;
  OnError on_error = OnError::kReport;

  BitmapPopulateOptions() = default;
};

class BitmapPopulateJob final : public BlockJob {
 public:
  static Task<Expected<std::shared_ptr<BitmapPopulateJob>>> create(JobRegistry& registry,
                                                                   BitmapPopulateOptions options);

  BitmapPopulateJob(JobRegistry& registry, BitmapPopulateOptions options);

  std::string_view type() const override { return "bitmap-populate"; }

 protected:
  Task<JobResult> run() override;
  Task<JobResult> prepare() override;
  Task<void> commit() override;
  Task<void> clean() override;
  // Looking up moves no data.
  void speed_changed() override {}

 private:
  BitmapPopulateOptions options_;
  DirtyBitmap::Use bitmap_;
  DirtyBitmap found_;
};

}  // namespace blockbed
