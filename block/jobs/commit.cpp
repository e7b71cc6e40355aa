#include "block/jobs/commit.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/filters/commit_top.h"
#include "block/graph/chain.h"
#include "block/graph/filter_insertion.h"
#include "block/graph/graph_change.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

namespace {

// What one mark of the copies stands for, unless a layer has smaller clusters.
constexpr uint64_t kGranularity = 65536;

// The steps in which QEMU's commit goes on: clients see them in the progress of a slow one.
constexpr uint64_t kLeastPiece = uint64_t{512} << 10;

// In flight at most: one piece at a time. The kernel reads ahead and writes behind by itself; a
// second piece only takes the processors from guests.
constexpr uint64_t kBuffer = kLeastPiece;

// So much is marked before it is copied: seldom enough to keep the copying busy.
constexpr uint64_t kMarkedAtOnce = uint64_t{64} << 20;

// No larger than what a layer above the base may hold alone: nothing else is written to the base.
// Where that makes too many marks, what is around it is copied with it.
uint64_t granularity_of(Node& top, Node& base) {
  uint64_t granularity = kGranularity;
  for (Node* node = &top; node != &base; node = node->filter_or_cow_node()) {
    const uint64_t smallest = node->driver().info().subcluster_size;
    if (smallest != 0) granularity = std::min(granularity, smallest);
  }
  while (granularity < kGranularity && !Bitmap::fits(top.length(), granularity)) {
    granularity *= 2;
  }
  return granularity;
}

}  // namespace

CommitJob::CommitJob(JobRegistry& registry, CommitOptions options)
    : BlockJob(registry, options.job),
      options_(std::move(options)),
      top_(std::in_place, registry.graph(), "",
           PermissionPair{Permissions::none(), Permissions::all()}),
      base_(std::in_place, registry.graph(), "",
            PermissionPair{Permissions::none(), Permissions::all()}) {
  // Whether the job stands still, it says itself.
  top_->set_disable_request_queuing(true);
  base_->set_disable_request_queuing(true);
}

// --- creation

Task<Expected<std::shared_ptr<CommitJob>>> CommitJob::create(JobRegistry& registry,
                                                             CommitOptions options) {
  if (options.top->skip_filters() == options.base->skip_filters()) {
    co_return fail("Invalid files for merge: top and base are the same");
  }
  if (!Bitmap::fits(options.top->length(), kGranularity)) {
    co_return fail(
        fmt::format("'{}' is too large for a commit: at most {} pieces can be remembered",
                    options.top->name(), Bitmap::kMaxBits));
  }
  if (!options.named && options.job.id.empty()) options.job.id = options.disk->device_name();
  BB_CO_TRY(registry.check_id(options.job.id));
  auto job = std::make_shared<CommitJob>(registry, std::move(options));
  registry.add(job);
  if (Expected<void> attached = co_await job->attach(); !attached) {
    registry.give_up(*job);
    co_await job->clean();
    co_await job->leave();
    co_return fail(std::move(attached).error());
  }
  co_return job;
}

Task<Expected<void>> CommitJob::attach() {
  Graph& graph = registry().graph();
  Node& top = *options_.top;
  Node& base = *options_.base;
  BB_CO_TRY(set_speed(options_.speed));
  BB_CO_TRY(add_node("main node", *options_.disk, {Permissions::none(), Permissions::all()}));
  auto opened = co_await make_writable(graph, base);
  if (!opened) co_return fail(std::move(opened).error());
  opened_ = std::move(*opened);

  JobFilter description;
  description.node_name = options_.filter_node_name;
  // Nobody writes to what lies below another layer.
  description.read_only = true;
  description.make = [](Node& node, Edge& below) -> std::unique_ptr<Driver> {
    return std::make_unique<CommitTop>(node, below);
  };
  std::vector<Node*> stopped{&top, &*options_.overlay};
  DrainedSection drained = co_await drain(std::move(stopped));
  auto filter = co_await insert_filter(graph, top, std::move(description));
  if (!filter) co_return fail(std::move(filter).error());
  filter_ = std::move(*filter);

  // Every layer between, and the top: what they show is not a disk any more.
  PermissionPair between{Permissions::none(),
                         Permission::kWrite | Permissions(Permission::kWriteUnchanged)};
  const Node* const over_base = overlay_of(top, &base)->backing_node();
  for (Node* node = &top; node != &base; node = node->filter_or_cow_node()) {
    // Filters over the base show what it holds.
    if (node == over_base) between.shares |= Permission::kConsistentRead;
    BB_CO_TRY(add_node("intermediate node", *node, between));
  }
  auto frozen = FrozenChain::freeze(*filter_, base);
  if (!frozen) co_return fail(std::move(frozen).error());
  frozen_ = std::move(*frozen);

  BB_CO_TRY(add_node("base", base, {Permissions::none(), Permissions::all()}));
  PermissionPair wanted{Permission::kConsistentRead | Permission::kWrite,
                        Permission::kConsistentRead | Permission::kWriteUnchanged};
  if (base.length() < top.length()) wanted.needs |= Permission::kResize;
  BB_CO_TRY(base_->set_permissions(wanted));
  BB_CO_TRY(base_->insert(base));
  BB_CO_TRY(top_->insert(top));
  // Unlike those of other jobs its nodes stay where they are.
  BB_CO_TRY(base_->bind(base.context()));
  BB_CO_TRY(top_->bind(top.context()));

  MirrorCopy::Settings settings;
  settings.granularity = granularity_of(top, base);
  settings.least_piece = kLeastPiece;
  settings.buffer_size = kBuffer;
  copy_.emplace(env(), top_->edge(), base_->edge(), top.length(), settings);
  ahead_ = top.length();
  copy_->set_ahead(ahead_);
  copy_->set_progress(&counted());
  co_return Expected<void>();
}

// --- the work

void CommitJob::speed_changed() {
  rate_limit_.set_speed(speed());
  if (pass_ != nullptr) {
    pass_->kick();
  } else {
    kick();
  }
}

void CommitJob::interrupted() {
  if (pass_ != nullptr && (pause_requested() || cancelled())) pass_->stop();
}

Task<JobResult> CommitJob::run() {
  if (options_.base->length() < options_.top->length()) {
    auto grown = co_await base_->truncate(options_.top->length(), TruncateOptions());
    if (!grown) co_return job_failure(std::move(grown).error());
  }
  JobResult result = co_await copy_all();
  co_await let_reply_go_first();
  co_return result;
}

Task<JobResult> CommitJob::copy_all() {
  const uint64_t length = copy_->length();
  bool answered = false;
  for (uint64_t at = 0; at < length;) {
    auto end = co_await mark_from(at);
    if (!end) co_return std::unexpected(std::move(end).error());
    if (cancelled()) co_return JobResult();
    if (copy_->dirty() && !std::exchange(answered, true)) co_await let_reply_go_first();
    BB_CO_TRY(co_await copy_marked());
    if (cancelled()) co_return JobResult();
    // What needed no copy is done as well, now that the job has come behind it.
    counted().done += ahead_ - (length - *end);
    ahead_ = length - *end;
    copy_->set_ahead(ahead_);
    at = *end;
  }
  co_await pay_off(rate_limit_);
  co_return JobResult();
}

Task<std::expected<uint64_t, JobFailure>> CommitJob::mark_from(uint64_t offset) {
  uint64_t marked = 0;
  while (offset < copy_->length() && marked < kMarkedAtOnce) {
    co_await pause_point();
    if (cancelled()) co_return offset;
    const uint64_t most = std::min(copy_->length() - offset, kMarkedAtOnce);
    // Filters over the base show what it holds: none of that is to be copied.
    Node* lowest = overlay_of(*options_.top, &*options_.base);
    auto answer =
        co_await chain_allocated(*options_.top, lowest, /*include_base=*/true, offset, most);
    if (!answer) {
      JobResult met =
          co_await meet({{answer.error(), /*is_read=*/true}}, options_.on_error, options_.on_error);
      if (!met) co_return std::unexpected(std::move(met).error());
      continue;
    }
    if (answer->length == 0) co_return copy_->length();
    uint64_t end = std::min(offset + answer->length, copy_->length());
    // A granule that is allocated in part is copied whole.
    const uint64_t granularity = copy_->settings().granularity;
    const uint64_t over = end < copy_->length() ? end % granularity : 0;
    const bool holds = answer->allocated || end - offset <= over;
    if (over != 0) end = holds ? std::min(end + granularity - over, copy_->length()) : end - over;
    if (holds) {
      marked += end - offset;
      ahead_ -= end - offset;
      copy_->set_ahead(ahead_);
      copy_->changed(offset, end - offset);
    }
    offset = end;
    co_await env().executor().yield();
  }
  co_return offset;
}

Task<JobResult> CommitJob::copy_marked() {
  while (copy_->dirty()) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    MirrorCopy::Pass pass(env().executor());
    pass.rate_limit = &rate_limit_;
    pass_ = &pass;
    co_await copy_->copy_pass(pass);
    pass_ = nullptr;
    if (cancelled()) co_return JobResult();
    if (!pass.failures().empty()) {
      BB_CO_TRY(co_await meet(pass.failures(), options_.on_error, options_.on_error));
    }
  }
  co_return JobResult();
}

// --- the end

namespace {

// The images whose backing file this node is, filters between them left out.
void collect_images_above(Node& node, std::vector<NodeRef>& images) {
  for (const Edge* edge : node.parents()) {
    Node* parent = edge->parent().as_node();
    if (parent == nullptr) continue;
    if (edge->roles().has(ChildRole::kCow)) images.emplace_back(*parent);
    if (edge->roles().has(ChildRole::kFiltered)) collect_images_above(*parent, images);
  }
}

}  // namespace

Task<JobResult> CommitJob::prepare() {
  // Most of it while guests go on.
  co_await copy_->wait_written_behind();
  if (auto flushed = co_await base_->flush(); !flushed) co_return job_failure(flushed.error());
  std::vector<NodeRef> images;
  collect_images_above(*filter_, images);
  std::vector<Node*> nodes{&*filter_, &*options_.base};
  for (const NodeRef& image : images) nodes.push_back(&*image);
  drained_ = co_await drain(std::move(nodes));
  if (auto flushed = co_await base_->flush(); !flushed) co_return job_failure(flushed.error());

  const std::string name = options_.backing_file.value_or(options_.base->filename());
  const std::string format(options_.base->driver().name());
  std::vector<std::pair<std::string, std::string>> before;
  Expected<void> renamed;
  for (std::size_t i = 0; i < images.size() && renamed; ++i) {
    const Driver& image = images[i]->driver();
    before.emplace_back(image.backing_file_name(), image.backing_format());
    renamed = co_await rename_backing(*images[i], name, format);
  }
  JobResult result;
  if (!renamed) {
    result = job_failure(std::move(renamed).error());
  } else if (!take_out()) {
    result = job_failure(Errno(EPERM));
  } else {
    for (const NodeRef& image : images) image->set_header_backing_file(name);
    co_return result;
  }
  for (std::size_t i = 0; i < before.size(); ++i) {
    (void)co_await rename_backing(*images[i], before[i].first, before[i].second);
  }
  co_return result;
}

Task<Expected<void>> CommitJob::rename_backing(Node& image, std::string name, std::string format) {
  Graph& graph = registry().graph();
  auto opened = co_await make_writable(graph, image);
  if (!opened) co_return fail(std::move(opened).error());
  auto done = co_await image.driver().change_backing_file(std::move(name), std::move(format),
                                                          /*require=*/false);
  co_await leave_for_reading(graph, std::move(*opened));
  co_return done;
}

Expected<void> CommitJob::take_out() {
  frozen_.release();
  GraphChange change(registry().graph());
  change.detach_root(top_->edge());
  change.detach_root(base_->edge());
  BB_TRY(change.replace_in_parents(*filter_, *options_.base));
  BB_TRY(change.check());
  change.commit();
  filter_ = NodeRef();
  return {};
}

Task<void> CommitJob::clean() {
  if (copy_) co_await copy_->wait_written_behind();
  Graph& graph = registry().graph();
  frozen_.release();
  std::vector<Node*> nodes{&*options_.disk, &*options_.base};
  DrainedSection drained = co_await drain(std::move(nodes));
  {
    GraphChange change(graph);
    // One that has succeeded keeps them.
    if (filter_) detach_nodes(change);
    for (Backend* backend : {&*top_, &*base_}) {
      if (backend->node() != nullptr) change.detach_root(backend->edge());
    }
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());
    change.commit();
  }
  if (filter_) co_await remove_filter(graph, std::exchange(filter_, NodeRef()));
  if (copy_) copy_->set_progress(nullptr);
  copy_.reset();
  top_.reset();
  base_.reset();
  co_await leave_for_reading(graph, std::exchange(opened_, {}));
  drained.end();
  drained_.end();
  options_.disk = options_.overlay = options_.top = options_.base = NodeRef();
  co_await graph.close_unreferenced();
}

}  // namespace blockbed
