#include "block/jobs/stream.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/graph/filter_insertion.h"
#include "block/graph/graph_change.h"
#include "block/jobs/job_registry.h"

namespace blockbed {

namespace {

// Streaming changes no byte that anybody reads from the top; the images below must stay as they
// are while it goes on.
constexpr Permissions kSharedAtTop =
    Permission::kConsistentRead | Permission::kWriteUnchanged | Permissions(Permission::kWrite);
constexpr Permissions kSharedBelow = Permission::kConsistentRead | Permission::kWriteUnchanged;

// The first node of the chain that stays as it is; null when all of it is brought up.
Node* end_of_stream(const StreamOptions& options) {
  return options.bottom ? options.bottom->filter_or_cow_node() : options.base.get();
}

Expected<void> check(const StreamOptions& options) {
  const Node* end = end_of_stream(options);
  for (Node* node = options.top.get(); node != nullptr && node != end;
       node = node->filter_or_cow_node()) {
    BB_TRY(node->operations().check(Operation::kStream));
  }
  if (!options.base && options.backing_file) {
    return fail("backing file specified, but streaming the entire chain");
  }
  return {};
}

Expected<StreamJob::Place> find_place(const StreamOptions& options) {
  StreamJob::Place place;
  place.top = options.top;
  place.image = NodeRef(*options.top->skip_filters());
  if (options.bottom) {
    place.bottom = place.above_base = options.bottom;
    return place;
  }
  Node* overlay = overlay_of(*options.top, options.base.get());
  if (overlay == nullptr) {
    return fail(fmt::format("'{}' is not in the backing chain of '{}'", options.base->name(),
                            options.top->name()));
  }
  place.bottom = NodeRef(*overlay);
  while (overlay->filter_or_cow_node() != options.base.get()) {
    overlay = overlay->filter_or_cow_node();
  }
  place.above_base = NodeRef(*overlay);
  return place;
}

Graph::OpenRequest describe_filter(const StreamOptions& options, const StreamJob::Place& place) {
  Graph::OpenRequest request;
  request.options.set("driver", "copy-on-read");
  request.options.set("file", place.top->name());
  request.options.set("bottom", place.bottom->name());
  if (options.filter_node_name) {
    request.options.set("node-name", *options.filter_node_name);
  } else {
    request.hidden = true;
  }
  return request;
}

}  // namespace

// --- creation

StreamJob::StreamJob(JobRegistry& registry, StreamOptions options, Place place)
    : BlockJob(registry, options.job),
      options_(std::move(options)),
      place_(std::move(place)),
      reader_(std::make_unique<Backend>(
          registry.graph(), "", PermissionPair{Permission::kConsistentRead, kSharedAtTop})) {
  // What holds a job up in a drained section is its own pause.
  reader_->set_disable_request_queuing(true);
  reader_->set_stays_with_node(true);
}

Task<Expected<std::shared_ptr<StreamJob>>> StreamJob::create(JobRegistry& registry,
                                                             StreamOptions options) {
  Graph& graph = registry.graph();
  BB_ASSERT(options.top->quiesced());
  BB_CO_TRY(check(options));
  auto place = find_place(options);
  if (!place) co_return fail(std::move(place).error());
  auto held = FrozenChain::freeze(*place->bottom, *place->above_base);
  if (!held) co_return fail(std::move(held).error());
  place->held = std::move(*held);

  auto made_writable = co_await make_writable(graph, *place->top);
  if (!made_writable) co_return fail(std::move(made_writable).error());
  place->made_writable = std::move(*made_writable);
  auto filter = co_await insert_filter(graph, *place->top, describe_filter(options, *place));
  if (!filter) {
    co_await leave_for_reading(graph, std::move(place->made_writable));
    co_return fail(std::move(filter).error());
  }
  place->filter = std::move(*filter);

  if (!options.named && options.job.id.empty()) options.job.id = place->filter->device_name();
  if (Expected<void> free = registry.check_id(options.job.id); !free) {
    co_await remove_filter(graph, std::move(place->filter));
    co_await leave_for_reading(graph, std::move(place->made_writable));
    co_return fail(std::move(free).error());
  }
  auto job = std::make_shared<StreamJob>(registry, std::move(options), std::move(*place));
  registry.add(job);
  if (Expected<void> attached = job->attach(); !attached) {
    registry.give_up(*job);
    co_await job->clean();
    co_await job->leave();
    co_return fail(std::move(attached).error());
  }
  co_return job;
}

Expected<void> StreamJob::attach() {
  BB_TRY(set_speed(options_.speed));
  BB_TRY(add_node("main node", *place_.filter, {Permissions::none(), Permissions::all()}));
  BB_TRY(reader_->insert(*place_.filter));
  BB_TRY(add_node("active node", *place_.top, {Permissions::none(), kSharedAtTop}));
  const Node* base = place_.above_base->filter_or_cow_node();
  for (Node* node = place_.top->filter_or_cow_node(); node != nullptr && node != base;
       node = node->filter_or_cow_node()) {
    BB_TRY(add_node("intermediate node", *node, {Permissions::none(), kSharedBelow}));
  }
  return {};
}

// --- the end

Task<void> StreamJob::leave_graph() {
  if (!place_.filter) co_return;
  Graph& graph = registry().graph();
  walk_.reset();
  place_.held.release();
  {
    DrainedSection drained = co_await drain(*place_.filter);
    co_await reader_->remove();
    reader_.reset();
    {
      GraphChange change(graph);
      detach_node(change, *place_.filter);
      const Expected<void> checked = change.check();
      BB_ASSERT(checked.has_value());  // who uses less cannot be in anybody's way
      change.commit();
    }
    co_await remove_filter(graph, std::exchange(place_.filter, NodeRef()));
  }
  // Only now, when nobody holds it, the filter is closed, and the chain free.
  co_await graph.close_unreferenced();
}

Expected<void> StreamJob::link_to(Node* base) {
  Node& image = *place_.image;
  Edge* link = image.cow_edge();
  if ((link == nullptr ? nullptr : link->node()) == base) return {};
  GraphChange change(registry().graph());
  if (base == nullptr) {
    BB_TRY(change.detach_child(*link));
  } else if (link == nullptr) {
    change.attach_child(image, "backing", kCowRole, *base);
  } else {
    BB_TRY(change.replace_node(*link, *base));
  }
  BB_TRY(change.check());
  change.commit();
  return {};
}

Task<JobResult> StreamJob::name_in_header(Node* base) {
  std::string name, format;
  if (base != nullptr) {
    Node& shown = *base->skip_filters();
    name = options_.backing_file.value_or(shown.filename());
    format = shown.driver().name();
  }
  Node& image = *place_.image;
  auto changed = co_await image.driver().change_backing_file(name, format, /*require=*/false);
  if (!changed) co_return job_failure(std::move(changed).error());
  image.set_header_backing_file(std::move(name));
  co_return JobResult();
}

Task<JobResult> StreamJob::prepare() {
  co_await leave_graph();
  Node& image = *place_.image;
  if (image.cow_edge() == nullptr) co_return JobResult();

  // Before the image ceases to name the files below, what came from them must be on the disk, also
  // what writes that are still under way take from them. Later ones find all of it in the image.
  {
    const DrainedSection settled = co_await drain(image);
  }
  if (auto flushed = co_await image.flush(); !flushed) co_return job_failure(flushed.error());
  DrainedSection drained = co_await drain(image);
  const NodeRef old(*image.backing_node());
  Node* base = place_.above_base->filter_or_cow_node();
  const NodeRef kept = base == nullptr ? NodeRef() : NodeRef(*base);
  if (!link_to(base)) co_return job_failure(Errno(EPERM));
  JobResult named = co_await name_in_header(base);
  if (!named) {
    const Expected<void> back = link_to(old.get());
    BB_ASSERT(back.has_value());  // so it was
  }
  co_return named;
}

Task<void> StreamJob::clean() {
  Graph& graph = registry().graph();
  co_await leave_graph();
  {
    DrainedSection drained = co_await drain(*place_.top);
    co_await leave_for_reading(graph, std::move(place_.made_writable));
  }
  place_ = Place();
  options_.top = options_.base = options_.bottom = NodeRef();
  co_await graph.close_unreferenced();
}

// --- the work

void StreamJob::speed_changed() {
  rate_limit_.set_speed(speed());
  if (walk_) walk_->kick();
}

void StreamJob::interrupted() {
  if (walk_ && (pause_requested() || cancelled())) walk_->stop();
}

Task<JobResult> StreamJob::run() {
  if (place_.image.get() == place_.bottom.get()) co_return JobResult();
  walk_.emplace(env(), *reader_, *place_.image, *place_.bottom, counted());
  co_await let_reply_go_first();

  std::optional<Errno> ignored;
  for (;;) {
    co_await pause_point();
    if (cancelled()) co_return JobResult();
    co_await walk_->run(rate_limit_);
    if (cancelled()) co_return JobResult();
    while (const std::optional<Errno> failure = walk_->failure()) {
      const ErrorAction action = error_action(options_.on_error, /*is_read=*/true, *failure);
      if (action == ErrorAction::kStop) break;
      if (!ignored) ignored = failure;
      if (action == ErrorAction::kReport) co_return job_failure(*failure);
      walk_->leave_out();
    }
    if (walk_->complete()) break;
  }
  if (ignored) co_return job_failure(*ignored);
  co_return JobResult();
}

}  // namespace blockbed
