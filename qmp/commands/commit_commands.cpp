#include "qmp/commands/commit_commands.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "block/jobs/commit.h"
#include "block/jobs/mirror.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_graph.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

// The backing file of `node`, filters left out; null when it has none.
Node* next_layer(Node& node) {
  Node* below = node.skip_filters()->backing_node();
  return below == nullptr ? nullptr : below->skip_filters();
}

Expected<Node*> find_in_chain(Graph& graph, Node& top, const std::string& name) {
  auto node = graph.find_device_or_node({}, name);
  if (!node) return node;
  if (!chain_contains(top, **node)) {
    return fail(fmt::format("'{}' is not in this backing file chain", name));
  }
  return node;
}

struct Layers {
  Node* disk = nullptr;
  Node* top = nullptr;
  Node* base = nullptr;
};

Expected<Node*> find_top(Graph& graph, Node& disk, const c::BlockCommit::Args& arguments) {
  if (arguments.top_node && arguments.top) {
    return fail("'top-node' and 'top' are mutually exclusive");
  }
  if (arguments.top_node) return find_in_chain(graph, disk, *arguments.top_node);
  if (!arguments.top || disk.filename() == *arguments.top) return &disk;
  if (Node* found = find_backing_image(disk, *arguments.top)) return found;
  return fail(fmt::format("Top image file {} not found", *arguments.top));
}

Expected<Node*> find_base(Graph& graph, Node& top, const c::BlockCommit::Args& arguments) {
  if (arguments.base_node && arguments.base) {
    return fail("'base-node' and 'base' are mutually exclusive");
  }
  if (arguments.base_node) return find_in_chain(graph, top, *arguments.base_node);
  if (arguments.base) {
    if (Node* found = find_backing_image(top, *arguments.base)) return found;
    return fail(fmt::format("Can't find '{}' in the backing chain", *arguments.base));
  }
  Node* base = top.skip_filters();
  while (Node* below = next_layer(*base)) base = below;
  return base;
}

Expected<Layers> find_layers(Graph& graph, const c::BlockCommit::Args& arguments) {
  auto disk = find_root_node(graph, arguments.device);
  if (!disk) {
    if (graph.find_device_or_node(arguments.device, arguments.device)) {
      return fail(std::move(disk).error());
    }
    return fail(ErrorClass::kDeviceNotFound,
                fmt::format("Device '{}' not found", arguments.device));
  }
  BB_TRY((*disk)->operations().check(Operation::kCommitSource));
  auto top = find_top(graph, **disk, arguments);
  if (!top) return fail(std::move(top).error());
  auto base = find_base(graph, **top, arguments);
  if (!base) return fail(std::move(base).error());
  for (Node* node = *top; node != nullptr; node = node->filter_or_cow_node()) {
    BB_TRY(node->operations().check(Operation::kCommitTarget));
    if (node == *base) break;
  }
  // A filter is no image of its own: the jobs find that out.
  if (*top == *base) return fail("cannot commit an image into itself");
  return Layers{*disk, *top, *base};
}

Task<Expected<std::shared_ptr<Job>>> start_active(Graph& graph, JobRegistry& jobs, Layers layers,
                                                  const c::BlockCommit::Args& arguments) {
  MirrorOptions options;
  options.job = job_parameters(arguments);
  options.named = true;
  // The job goes by the name of the disk, whichever layer it commits.
  if (!arguments.job_id) options.job.id = layers.disk->device_name();
  options.commit = true;
  options.source = NodeRef(*layers.top);
  options.target = NodeRef(*layers.base);
  options.speed = arguments.speed.value_or(0);
  options.on_source_error = options.on_target_error = error_policy(arguments.on_error);
  options.filter_node_name = arguments.filter_node_name;
  auto opened = co_await make_writable(graph, *layers.base);
  if (!opened) co_return fail(std::move(opened).error());
  const WritableNodes undo = *opened;
  options.opened = std::move(*opened);
  DrainedSection drained = co_await drain(*layers.top);
  auto job = co_await MirrorJob::create(jobs, std::move(options));
  if (!job) co_await leave_for_reading(graph, undo);
  drained.end();
  if (!job) co_return fail(std::move(job).error());
  jobs.start(**job);
  co_return std::shared_ptr<Job>(*job);
}

Task<Expected<std::shared_ptr<Job>>> start(Graph& graph, JobRegistry& jobs,
                                           const c::BlockCommit::Args& arguments) {
  auto layers = find_layers(graph, arguments);
  if (!layers) co_return fail(std::move(layers).error());
  const auto& [disk, top, base] = *layers;
  const bool is_disk = top->skip_filters() == disk->skip_filters();
  if (is_disk || cumulative_permissions(*top).needs.has(Permission::kWrite)) {
    if (arguments.backing_file) {
      co_return fail(is_disk ? "'backing-file' specified, but 'top' is the active layer"
                             : "'backing-file' specified, but 'top' has a writer on it");
    }
    co_return co_await start_active(graph, jobs, *layers, arguments);
  }
  Node* overlay = disk->skip_filters();
  while (next_layer(*overlay) != top->skip_filters()) overlay = next_layer(*overlay);
  BB_CO_TRY(overlay->operations().check(Operation::kCommitTarget));

  CommitOptions options;
  options.job = job_parameters(arguments);
  options.named = arguments.job_id.has_value();
  options.disk = NodeRef(*disk);
  options.overlay = NodeRef(*overlay);
  options.top = NodeRef(*top);
  options.base = NodeRef(*base);
  options.backing_file = arguments.backing_file;
  options.speed = arguments.speed.value_or(0);
  options.on_error = error_policy(arguments.on_error);
  options.filter_node_name = arguments.filter_node_name;
  auto job = co_await CommitJob::create(jobs, std::move(options));
  if (!job) co_return fail(std::move(job).error());
  jobs.start(**job);
  co_return std::shared_ptr<Job>(*job);
}

Task<Expected<void>> commit(Graph& graph, JobRegistry& jobs, c::BlockCommit::Args arguments) {
  MutexGuard lock = co_await graph.lock();
  auto job = co_await start(graph, jobs, arguments);
  lock.unlock();
  if (!job) co_return fail(std::move(job).error());
  co_await jobs.settle(std::move(*job));
  co_return Expected<void>();
}

}  // namespace

void register_commit_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockCommit>(
      [&graph, &jobs](CommandContext&, c::BlockCommit::Args arguments) {
        return commit(graph, jobs, std::move(arguments));
      });
}

}  // namespace blockbed
