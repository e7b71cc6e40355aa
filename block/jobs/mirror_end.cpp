// How a mirror ends.
#include <fmt/format.h>

#include "block/filters/mirror_top.h"
#include "block/graph/filename.h"
#include "block/graph/filter_insertion.h"
#include "block/graph/graph_change.h"
#include "block/jobs/job_registry.h"
#include "block/jobs/mirror.h"
#include "block/jobs/replacement.h"

namespace blockbed {

Task<JobResult> MirrorJob::copy_the_rest() {
  if (!copy_->dirty()) co_return JobResult();
  while (copy_->dirty()) {
    MirrorCopy::Pass pass(env().executor());
    co_await copy_->copy_pass(pass);
    if (!pass.failures().empty()) co_return job_failure(pass.failures().front().error);
  }
  const Result<void> flushed = co_await target_->flush();
  if (!flushed) co_return job_failure(flushed.error());
  co_return JobResult();
}

Task<JobResult> MirrorJob::prepare() {
  // Guests may have written for long since run() ended: most of that while they go on.
  if (copy_->dirty()) {
    MirrorCopy::Pass pass(env().executor());
    co_await copy_->copy_pass(pass);
    if (auto flushed = co_await target_->flush(); !flushed) co_return job_failure(flushed.error());
  }
  std::vector<Node*> nodes{&*filter_, &source(), &target()};
  if (const auto replaced = node_to_replace()) nodes.push_back(*replaced);
  drained_ = co_await drain(std::move(nodes));
  BB_CO_TRY(co_await copy_the_rest());
  if (!pivots_) co_return JobResult();
  co_return co_await pivot();
}

Expected<Node*> MirrorJob::node_to_replace() const {
  if (!options_.replaces) return &source();
  Node* node = registry().graph().find_node(*options_.replaces);
  if (node == nullptr) {
    return fail(fmt::format("Node name '{}' not found", *options_.replaces));
  }
  return node;
}

Task<Expected<void>> MirrorJob::open_backing() {
  Node& image = *target().skip_filters();
  const std::string stored = image.driver().backing_file_name();
  if (options_.backing != MirrorBacking::kOpen || image.backing_node() != nullptr ||
      stored.empty() || backing_) {
    co_return Expected<void>();
  }
  Graph& graph = registry().graph();
  auto name = resolve_backing_name(image, stored);
  if (name) {
    if (auto allowed = graph.may_open_named_by_image(image, *name); !allowed) {
      name = fail(std::move(allowed).error());
    }
  }
  if (!name) co_return fail(std::move(name).error());
  Graph::OpenRequest request;
  request.filename = std::move(*name);
  if (std::string format = image.driver().backing_format(); !format.empty()) {
    request.options.set("driver", std::move(format));
  }
  InheritedOptions inherited;
  inherited.flags.read_only = true;
  inherited.flags.cache_direct = image.flags().cache_direct;
  inherited.flags.cache_no_flush = image.flags().cache_no_flush;
  request.inherited = inherited;
  request.implicit = true;
  auto opened = co_await graph.open(std::move(request));
  if (!opened) {
    co_return fail(fmt::format("Could not open backing file: {}", opened.error().description));
  }
  backing_ = std::move(*opened);
  co_return Expected<void>();
}

Expected<void> MirrorJob::change_backing(GraphChange& change) {
  if (options_.backing == MirrorBacking::kLeave) return {};
  Node* wanted = backing_.get();
  Node& image = *target().skip_filters();
  if (options_.backing == MirrorBacking::kSource) {
    if (options_.sync == MirrorSync::kNone) wanted = &source();
    if (options_.sync == MirrorSync::kTop) wanted = source().skip_filters()->backing_node();
  } else if (wanted == nullptr) {
    return {};
  }
  if (image.backing_node() == wanted) return {};
  if (image.cow_edge() != nullptr) BB_TRY(change.detach_child(*image.cow_edge()));
  if (wanted != nullptr) change.attach_child(image, "backing", kCowRole, *wanted);
  return {};
}

Task<JobResult> MirrorJob::pivot() {
  frozen_.release();
  const auto replaced = node_to_replace();
  if (!replaced) co_return job_failure(replaced.error());
  if (options_.replaces && !may_be_replaced(source(), **replaced)) {
    events().tell_error(fmt::format(
        "Can no longer replace '{}' by '{}', because it can no longer be guaranteed that "
        "doing so would not lead to an abrupt change of visible data",
        (*replaced)->name(), target().name()));
    co_return job_failure(Errno(EPERM));
  }
  GraphChange change(registry().graph());
  detach_nodes(change);
  change.detach_root(target_->edge());
  Expected<void> changed = change_backing(change);
  if (changed) changed = change.replace_in_parents(*filter_, source());
  if (changed) changed = change.replace_in_parents(**replaced, target());
  if (changed) changed = change.check();
  if (!changed) co_return job_failure(Errno(EPERM));
  MirrorTop::of(*filter_).set_copy(nullptr);
  const bool for_reading = !(*replaced)->writable();
  change.commit();
  filter_ = NodeRef();
  if (backing_) target().skip_filters()->set_header_backing_file(backing_->filename());
  // Who used the source uses the target in the same way.
  if (!for_reading) {
    options_.opened.clear();
  } else if (options_.opened.empty() && target().writable()) {
    options_.opened.emplace_back(target());
  }
  co_return JobResult();
}

Task<void> MirrorJob::clean() {
  Graph& graph = registry().graph();
  frozen_.release();
  co_await copy_->wait_written_behind();
  std::vector<Node*> nodes{&source(), &target()};
  DrainedSection drained = co_await drain(std::move(nodes));
  if (filter_) {
    MirrorTop::of(*filter_).set_copy(nullptr);
    {
      GraphChange change(graph);
      detach_nodes(change);
      if (target_->node() != nullptr) change.detach_root(target_->edge());
      const Expected<void> checked = change.check();
      BB_ASSERT(checked.has_value());
      change.commit();
    }
    co_await remove_filter(graph, std::exchange(filter_, NodeRef()));
  }
  copy_->set_progress(nullptr);
  copy_.reset();
  target_.reset();
  co_await leave_for_reading(graph, std::exchange(options_.opened, {}));
  drained.end();
  drained_.end();
  options_.source = NodeRef();
  options_.target = NodeRef();
  backing_ = NodeRef();
  co_await graph.close_unreferenced();
}

}  // namespace blockbed
