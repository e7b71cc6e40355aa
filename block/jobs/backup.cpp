#include "block/jobs/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>

#include "block/filters/copy_before_write.h"
#include "block/filters/target_size.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/filter_insertion.h"
#include "block/graph/graph_change.h"
#include "block/graph/medium.h"
#include "block/graph/persistent_bitmaps.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

namespace {

// Nothing below the node is ever waited for.
bool is_null(Node& node) {
  Node* bottom = &node;
  while (Node* next = bottom->primary_node()) bottom = next;
  return bottom->driver().name().starts_with("null-");
}

}  // namespace

BackupJob::BackupJob(JobRegistry& registry, BackupOptions options, NodeRef filter)
    : BlockJob(registry, options.job),
      options_(std::move(options)),
      filter_(std::move(filter)),
      engine_(CopyBeforeWrite::of(*filter_).engine()) {}

// --- creation

Expected<void> BackupJob::check(const BackupOptions& options) {
  Node& source = *options.source;
  Node& target = *options.target;
  if (&source == &target) return fail("Source and target cannot be the same");
  for (Node* node : {&source, &target}) {
    if (has_medium(*node)) continue;
    return fail(fmt::format("Device is not inserted: {}", node->device_name()));
  }
  if (options.compress && !target.driver().can_write_compressed()) {
    return fail(
        fmt::format("Compression is not supported for this drive {}", target.device_name()));
  }
  BB_TRY(source.operations().check(Operation::kBackupSource));
  BB_TRY(target.operations().check(Operation::kBackupTarget));
  if (options.max_workers < 1 || options.max_workers > INT_MAX) {
    return fail(fmt::format("max-workers must be between 1 and {}", INT_MAX));
  }
  if (options.max_chunk < 0) {
    return fail("max-chunk must be zero (which means no limit) or positive");
  }
  if (options.bitmap != nullptr && options.bitmap_mode != BitmapMode::kNever) {
    BB_TRY(options.bitmap->check());
  }
  if (!same_sectors(source, target)) {
    return fail("Source and target image have different sizes");
  }
  return {};
}

Graph::OpenRequest BackupJob::describe_filter(const BackupOptions& options) {
  Graph::OpenRequest request;
  request.options.set("driver", CopyBeforeWrite::kName);
  request.options.set("file", options.source->name());
  request.options.set("target", options.target->name());
  // The filter lets through what the disk itself takes.
  request.options.set("discard", options.source->flags().unmap ? "unmap" : "ignore");
  if (options.filter_node_name) request.options.set("node-name", *options.filter_node_name);
  return request;
}

Task<Expected<std::shared_ptr<BackupJob>>> BackupJob::create(JobRegistry& registry,
                                                             BackupOptions options) {
  Graph& graph = registry.graph();
  BB_ASSERT(options.source->quiesced());
  BB_CO_TRY(check(options));
  if (options.bitmap != nullptr && options.bitmap->persistent() &&
      options.bitmap_mode != BitmapMode::kNever) {
    BB_CO_TRY(co_await options.source->driver().persistent_bitmaps()->begin_change());
  }
  if (options.warn) options.warn();
  options.warn = nullptr;
  auto filter = co_await insert_filter(graph, *options.source, describe_filter(options));
  if (!filter) co_return fail(std::move(filter).error());

  BlockCopy& engine = CopyBeforeWrite::of(**filter).engine();
  Expected<void> possible;
  if (!options.named && options.job.id.empty()) options.job.id = (*filter)->device_name();
  if (options.max_chunk > 0 && static_cast<uint64_t>(options.max_chunk) < engine.cluster_size()) {
    possible = fail(fmt::format("Required max-chunk ({}) is less than backup cluster size ({})",
                                options.max_chunk, engine.cluster_size()));
  } else {
    possible = registry.check_id(options.job.id);
  }
  if (!possible) {
    co_await remove_filter(graph, std::move(*filter));
    co_return fail(std::move(possible).error());
  }

  engine.set_compress(options.compress);
  engine.set_copy_range(options.use_copy_range);
  engine.set_skip_unallocated(options.sync == BackupSync::kTop);
  if (options.sync == BackupSync::kTop || options.sync == BackupSync::kBitmap) {
    CopyBeforeWrite::of(**filter).refuse_readers();
  }
  auto job = std::make_shared<BackupJob>(registry, std::move(options), std::move(*filter));
  job->freeze_bitmap();
  engine.set_progress(&job->counted());
  registry.add(job);
  if (Expected<void> attached = job->attach(); !attached) {
    registry.give_up(*job);
    co_await job->clean();
    co_return fail(std::move(attached).error());
  }
  co_return job;
}

Expected<void> BackupJob::attach() {
  BB_TRY(set_speed(options_.speed));
  BB_TRY(add_node("main node", *filter_, {Permissions::none(), Permissions::all()}));
  BB_TRY(add_node("target", *options_.target, {Permissions::none(), Permissions::all()}));
  return {};
}

// --- the bitmap

void BackupJob::freeze_bitmap() {
  if (options_.bitmap == nullptr) return;
  DirtyBitmap& bitmap = *options_.bitmap;
  bitmap_ = DirtyBitmap::Use(bitmap);
  options_.source->dirty_bitmaps().freeze(bitmap);
  if (options_.sync == BackupSync::kBitmap) engine_.select_only(bitmap);
}

// The source is drained: nothing is in flight that could still fail.
void BackupJob::thaw_bitmap() {
  if (!bitmap_) return;
  DirtyBitmap& bitmap = *bitmap_;
  bitmap_ = DirtyBitmap::Use();
  DirtyBitmapList& bitmaps = options_.source->dirty_bitmaps();
  const bool succeeded = started() && !failure();
  const bool update = options_.bitmap_mode == BitmapMode::kAlways
                          ? started()
                          : succeeded && options_.bitmap_mode == BitmapMode::kOnSuccess;
  if (!update) return bitmaps.thaw_keeping(bitmap);
  bitmaps.thaw_dropping(bitmap);
  if (succeeded) return;
  for (uint64_t at = engine_.next_selected(0); at < engine_.length();) {
    const uint64_t end = engine_.next_unselected(at);
    bitmap.set(at, end - at);
    at = engine_.next_selected(end);
  }
}

// --- the end

Task<void> BackupJob::clean() {
  Graph& graph = registry().graph();
  {
    // Who uses the disk uses it through the filter; other jobs below it go on.
    DrainedSection drained = co_await drain(*filter_);
    engine_.set_progress(nullptr);
    thaw_bitmap();
    {
      GraphChange change(graph);
      detach_nodes(change);
      const Expected<void> checked = change.check();
      BB_ASSERT(checked.has_value());
      change.commit();
    }
    co_await remove_filter(graph, std::exchange(filter_, NodeRef()));
  }
  options_.source = NodeRef();
  options_.target = NodeRef();
  co_await graph.close_unreferenced();
}

Task<Expected<void>> BackupJob::complete() {
  complete_ = true;
  kick();
  co_return Expected<void>();
}

// --- the work

void BackupJob::speed_changed() {
  rate_limit_.set_speed(speed());
  if (run_ != nullptr) run_->kick();
}

void BackupJob::interrupted() {
  if (run_ != nullptr && (pause_requested() || cancelled())) run_->stop();
}

Task<JobResult> BackupJob::run() {
  if (options_.sync != BackupSync::kNone) {
    auto zeroed = co_await zero_rest_of_sector(engine_.target(), engine_.length());
    if (!zeroed) co_return job_failure(zeroed.error());
  }
  switch (options_.sync) {
    case BackupSync::kNone:
      co_return co_await wait_for_end();
    case BackupSync::kTop:
      BB_CO_TRY(co_await leave_out_unallocated());
      break;
    case BackupSync::kFull:
    case BackupSync::kBitmap:
      break;
  }
  co_return co_await copy_all();
}

Task<JobResult> BackupJob::wait_for_end() {
  while (!cancelled() && !complete_) co_await wait();
  co_return JobResult();
}

Task<JobResult> BackupJob::leave_out_unallocated() {
  for (uint64_t offset = 0; offset < engine_.length();) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    const Result<uint64_t> next = co_await engine_.skip_unallocated_from(offset);
    if (!next) co_return job_failure(next.error());
    offset = *next;
    co_await env().executor().yield();
  }
  co_return JobResult();
}

Task<JobResult> BackupJob::copy_all() {
  // The reply of the command comes before the first byte that a disk has to move. Without disks
  // there is no such wait.
  if (engine_.remaining() > 0 && !(is_null(*filter_) && is_null(*options_.target))) {
    co_await let_reply_go_first();
  }
  for (;;) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();

    BlockCopy::Run walk(env().executor());
    walk.max_workers = static_cast<int>(options_.max_workers);
    walk.max_chunk = static_cast<uint64_t>(options_.max_chunk);
    walk.rate_limit = &rate_limit_;
    run_ = &walk;
    co_await engine_.run(walk);
    run_ = nullptr;

    if (walk.complete()) co_return JobResult();
    if (!walk.error()) continue;
    if (cancelled()) co_return JobResult();
    BB_CO_TRY(co_await meet({{*walk.error(), walk.error_is_read()}}, options_.on_source_error,
                            options_.on_target_error));
  }
}

}  // namespace blockbed
