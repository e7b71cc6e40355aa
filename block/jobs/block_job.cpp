#include "block/jobs/block_job.h"

#include <fmt/format.h>

#include "block/graph/drain.h"
#include "block/graph/graph.h"
#include "block/graph/graph_change.h"
#include "block/jobs/job_registry.h"
#include "schema/block_event.h"

namespace blockbed {

namespace {

// An error that is ignored and does not go away is not tried again at once: it would take every
// turn and fill the monitor with events. In ns.
constexpr int64_t kRetryPause = 100'000'000;

}  // namespace

BlockJob::BlockJob(JobRegistry& registry, JobParameters parameters)
    : Job(registry, std::move(parameters)) {}
BlockJob::~BlockJob() = default;

// --- speed

Expected<void> BlockJob::user_set_speed(int64_t bytes_per_second) {
  BB_TRY(check_verb(JobVerb::kSetSpeed));
  return set_speed(bytes_per_second);
}

Expected<void> BlockJob::set_speed(int64_t bytes_per_second) {
  if (bytes_per_second < 0) return fail("Parameter 'speed' expects a non-negative value");
  speed_ = static_cast<uint64_t>(bytes_per_second);
  speed_changed();
  return {};
}

Task<void> BlockJob::pay_off(const RateLimit& limit) {
  while (!cancelled()) {
    const int64_t delay = limit.delay(env().now());
    if (delay == 0) co_return;
    co_await sleep(delay);
  }
}

// --- nodes

Expected<void> BlockJob::add_node(std::string edge_name, Node& node, PermissionPair permissions,
                                  OperationSet forbids) {
  if (edges_.empty()) forbids.take(Operation::kDataplane);
  edges_.push_back(std::make_unique<Edge>(*this, std::move(edge_name), ChildRoles()));
  Edge& edge = *edges_.back();
  GraphChange change(registry().graph());
  change.attach_root(edge, node, permissions);
  BB_TRY(change.check());
  change.commit();
  bans_.push_back(std::make_unique<OperationBan>(
      node.operations(), forbids, fmt::format("block device is in use by block job: {}", type())));
  return {};
}

void BlockJob::detach_nodes(GraphChange& change) {
  bans_.clear();
  for (const std::unique_ptr<Edge>& edge : edges_) {
    if (edge->node() != nullptr) change.detach_root(*edge);
  }
}

void BlockJob::detach_node(GraphChange& change, const Node& node) {
  for (std::size_t i = 0; i < bans_.size(); ++i) {
    if (edges_[i]->node() != &node) continue;
    bans_[i].reset();
    change.detach_root(*edges_[i]);
  }
}

Task<void> BlockJob::leave() {
  std::vector<Node*> nodes;
  for (const std::unique_ptr<Edge>& edge : edges_) {
    if (edge->node() != nullptr) nodes.push_back(edge->node());
  }
  if (nodes.empty()) co_return;
  Graph& graph = registry().graph();
  {
    DrainedSection drained = co_await drain(std::move(nodes));
    GraphChange change(graph);
    detach_nodes(change);
    const Expected<void> checked = change.check();
    BB_ASSERT(checked.has_value());  // who uses less cannot be in anybody's way
    change.commit();
  }
  co_await graph.close_unreferenced();
}

std::string BlockJob::describe_user() const { return fmt::format("{} job '{}'", type(), id()); }

std::optional<IoContext> BlockJob::child_context() const {
  // That of the node that it began with.
  for (const std::unique_ptr<Edge>& edge : edges_) {
    if (edge->node() != nullptr) return edge->node()->context();
  }
  return std::nullopt;
}

Expected<void> BlockJob::join(ContextMove& move) {
  for (const std::unique_ptr<Edge>& edge : edges_) {
    if (edge->node() != nullptr) BB_TRY(move.add(*edge->node()));
  }
  return {};
}

void BlockJob::drained_begin(Edge&) { pause(); }
void BlockJob::drained_end(Edge&) { resume(); }
bool BlockJob::drained_poll(Edge&) { return busy(); }
void BlockJob::came_to_rest() { registry().graph().drain_progress(); }

// --- errors

ErrorAction BlockJob::error_action(OnError policy, bool is_read, Errno error) {
  const ErrorAction action = action_of(policy, error);
  schema::events::BlockJobError event;
  event.device = id();
  event.operation = is_read ? schema::IoOperationType::kRead : schema::IoOperationType::kWrite;
  event.action = to_schema(action);
  events().emit(event);
  if (action == ErrorAction::kStop) {
    pause_for_user();
    note_error(io_status_, error);
  }
  return action;
}

Task<JobResult> BlockJob::meet(std::vector<CopyFailure> failures, OnError on_read,
                               OnError on_write) {
  JobResult result;
  for (const auto& [error, is_read] : failures) {
    const ErrorAction action = error_action(is_read ? on_read : on_write, is_read, error);
    if (action == ErrorAction::kReport && result) result = job_failure(error);
  }
  if (!result) co_return result;
  if (const uint64_t done = progress().done; done == done_at_error_) {
    co_await sleep(kRetryPause);
  } else {
    done_at_error_ = done;
  }
  co_return JobResult();
}

void BlockJob::user_resumed() { forget_error(); }

// --- events

json::Object BlockJob::event_data() const {
  return json::Object{{"type", type()},
                      {"device", id()},
                      {"len", progress().total()},
                      {"offset", progress().done},
                      {"speed", speed_}};
}

void BlockJob::tell_ready() { events().emit("BLOCK_JOB_READY", event_data()); }

void BlockJob::tell_pending() {
  events().emit("BLOCK_JOB_PENDING", json::Object{{"type", type()}, {"id", id()}});
}

void BlockJob::tell_finished() {
  json::Object data = event_data();
  if (cancelled()) {
    events().emit("BLOCK_JOB_CANCELLED", std::move(data));
    return;
  }
  if (failure()) data.set("error", failure()->text);
  events().emit("BLOCK_JOB_COMPLETED", std::move(data));
}

}  // namespace blockbed
