#include "block/jobs/bitmap_populate.h"

#include "block/graph/chain.h"
#include "block/graph/graph_change.h"
#include "block/graph/persistent_bitmaps.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

namespace {

// An image of nothing but small extents must not keep others from their turn.
constexpr int kQuestionsPerTurn = 64;

}  // namespace

BitmapPopulateJob::BitmapPopulateJob(JobRegistry& registry, BitmapPopulateOptions options)
    : BlockJob(registry, options.job),
      options_(std::move(options)),
      bitmap_(*options_.bitmap),
      found_(*options_.node, "", options_.bitmap->length(), options_.bitmap->granularity()) {
  counted().remaining = found_.length();
}

Task<Expected<std::shared_ptr<BitmapPopulateJob>>> BitmapPopulateJob::create(
    JobRegistry& registry, BitmapPopulateOptions options) {
  BB_CO_TRY(options.bitmap->check());
  BB_CO_TRY(registry.check_id(options.job.id));
  if (options.bitmap->persistent()) {
    BB_CO_TRY(co_await options.node->driver().persistent_bitmaps()->begin_change());
  }
  auto job = std::make_shared<BitmapPopulateJob>(registry, std::move(options));
  registry.add(job);
  const PermissionPair permissions{Permissions::none(), Permissions::all() - Permission::kResize};
  auto attached = job->add_node("main node", *job->options_.node, permissions,
                                OperationSet{Operation::kResize});
  if (!attached) {
    registry.give_up(*job);
    co_await job->clean();
    co_return fail(std::move(attached).error());
  }
  co_return job;
}

Task<JobResult> BitmapPopulateJob::run() {
  Node& node = *options_.node;
  int questions = 0;
  for (uint64_t at = 0; at < found_.length();) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    // Nothing holds the link to what lies below: it may be another one after every pause.
    Node* const base = node.skip_filters()->backing_node();
    auto answer =
        co_await chain_allocated(node, base, /*include_base=*/false, at, found_.length() - at);
    if (!answer) {
      BB_CO_TRY(co_await meet({{answer.error(), /*is_read=*/true}}, options_.on_error,
                              options_.on_error));
      continue;
    }
    if (answer->length == 0) break;
    if (answer->allocated) found_.set(at, answer->length);
    at += answer->length;
    counted().done = at;
    counted().remaining = found_.length() - at;
    if (++questions % kQuestionsPerTurn == 0) co_await env().executor().yield();
  }
  co_return JobResult();
}

Task<JobResult> BitmapPopulateJob::prepare() {
  // Its image may have been closed to writes since the job began, and could not keep the marks.
  if (auto writable = bitmap_->check_writable(); !writable) {
    co_return job_failure(std::move(writable).error());
  }
  // Or may have been stored meanwhile, and says that it is right.
  if (bitmap_->persistent()) {
    auto begun = co_await options_.node->driver().persistent_bitmaps()->begin_change();
    if (!begun) co_return job_failure(std::move(begun).error());
  }
  co_return JobResult();
}

Task<void> BitmapPopulateJob::commit() {
  bitmap_->merge(found_);
  co_return;
}

Task<void> BitmapPopulateJob::clean() {
  bitmap_ = DirtyBitmap::Use();
  {
    GraphChange change(registry().graph());
    detach_nodes(change);
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());
    change.commit();
  }
  options_.node = NodeRef();
  co_await registry().graph().close_unreferenced();
}

}  // namespace blockbed
