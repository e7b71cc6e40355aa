#include "qmp/commands/stream_commands.h"

#include <fmt/format.h>

#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/medium.h"
#include "block/jobs/stream.h"
#include "qmp/commands/job_arguments.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_job.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Expected<Node*> base_called(Node& top, const std::string& name) {
  if (Node* base = find_backing_image(top, name)) return base;
  return fail(fmt::format("Can't find '{}' in the backing chain", name));
}

// `device` is what the client calls the top.
Expected<Node*> base_node(const Graph& graph, Node& top, const std::string& device,
                          const std::string& name) {
  auto base = graph.find_device_or_node(std::nullopt, name);
  if (!base) return base;
  if (*base == &top || !chain_contains(top, **base)) {
    return fail(fmt::format("Node '{}' is not a backing image of '{}'", name, device));
  }
  return base;
}

Expected<Node*> bottom_node(const Graph& graph, Node& top, const std::string& device,
                            const std::string& name) {
  auto bottom = graph.find_device_or_node(std::nullopt, name);
  if (!bottom) return bottom;
  if (lost_its_medium(**bottom)) return fail(fmt::format("Node '{}' is not open", name));
  if ((*bottom)->driver().is_filter()) {
    return fail(fmt::format("Node '{}' is a filter, use a non-filter node as 'bottom'", name));
  }
  if (!chain_contains(top, **bottom)) {
    return fail(fmt::format("Node '{}' is not in a chain starting from '{}'", name, device));
  }
  return bottom;
}

Expected<StreamOptions> options_of(const Graph& graph, const c::BlockStream::Args& arguments) {
  constexpr std::string_view kBoth = "'{}' and '{}' cannot be specified at the same time";
  if (arguments.base && arguments.base_node) return fail(fmt::format(kBoth, "base", "base-node"));
  if (arguments.base && arguments.bottom) return fail(fmt::format(kBoth, "base", "bottom"));
  if (arguments.bottom && arguments.base_node) {
    return fail(fmt::format(kBoth, "bottom", "base-node"));
  }
  auto top = graph.find_device_or_node(arguments.device, arguments.device);
  if (!top) return fail(std::move(top).error());

  StreamOptions options;
  options.top = NodeRef(**top);
  if (arguments.base || arguments.base_node) {
    auto base = arguments.base ? base_called(**top, *arguments.base)
                               : base_node(graph, **top, arguments.device, *arguments.base_node);
    if (!base) return fail(std::move(base).error());
    options.base = NodeRef(**base);
  }
  if (arguments.bottom) {
    auto bottom = bottom_node(graph, **top, arguments.device, *arguments.bottom);
    if (!bottom) return fail(std::move(bottom).error());
    options.bottom = NodeRef(**bottom);
  }
  options.job = job_parameters(arguments);
  options.named = arguments.job_id.has_value();
  options.backing_file = arguments.backing_file;
  options.speed = arguments.speed.value_or(0);
  options.on_error = error_policy(arguments.on_error);
  options.filter_node_name = arguments.filter_node_name;
  return options;
}

Task<Expected<void>> block_stream(Graph& graph, JobRegistry& jobs, c::BlockStream::Args arguments) {
  std::shared_ptr<StreamJob> job;
  {
    MutexGuard lock = co_await graph.lock();
    auto options = options_of(graph, arguments);
    if (!options) co_return fail(std::move(options).error());
    {
      DrainedSection drained = co_await drain(*options->top);
      auto created = co_await StreamJob::create(jobs, std::move(*options));
      if (!created) co_return fail(std::move(created).error());
      job = std::move(*created);
    }
    // Only now: what starts in a drained section would show that it pauses.
    jobs.start(*job);
  }
  co_await jobs.settle(job);
  co_return Expected<void>();
}

}  // namespace

void register_stream_commands(CommandTable& commands, Graph& graph, JobRegistry& jobs) {
  commands.implement<c::BlockStream>(
      [&graph, &jobs](CommandContext&, c::BlockStream::Args arguments) {
        return block_stream(graph, jobs, std::move(arguments));
      });
}

}  // namespace blockbed
