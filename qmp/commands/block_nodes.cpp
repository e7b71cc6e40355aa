#include "qmp/commands/block_nodes.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/activation.h"
#include "block/graph/backend.h"
#include "block/graph/chain.h"
#include "block/graph/drain.h"
#include "block/graph/filename.h"
#include "block/graph/medium.h"
#include "block/graph/writable.h"
#include "block/jobs/block_job.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_core.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

// The job that works on the node, if there is one.
const BlockJob* job_on(const Node& node) {
  for (const Edge* edge : node.parents()) {
    if (const auto* job = dynamic_cast<const BlockJob*>(&edge->parent())) return job;
  }
  return nullptr;
}

Task<Expected<void>> resize(Graph& graph, c::BlockResize::Args arguments) {
  MutexGuard guard = co_await graph.lock();
  auto found = graph.find_device_or_node(arguments.device, arguments.node_name);
  if (!found) co_return fail(std::move(found).error());
  Node& node = **found;
  if (arguments.size < 0) co_return fail("Parameter 'size' expects a >0 size");
  if (job_on(node) != nullptr || !node.operations().check(Operation::kResize)) {
    co_return fail(fmt::format("Device '{}' is in use",
                               arguments.device.value_or(arguments.node_name.value_or(""))));
  }

  NodeRef keep(node);
  Backend backend(graph, "", {Permissions(Permission::kResize), Permissions::all()});
  if (auto inserted = backend.insert(node); !inserted) co_return fail(std::move(inserted).error());
  DrainedSection drained = co_await drain(node);
  // The resize is the drained section's own request.
  backend.set_disable_request_queuing(true);
  auto done = co_await backend.truncate(static_cast<uint64_t>(arguments.size), TruncateOptions());
  drained.end();
  co_await backend.release();
  co_return done;
}

Expected<void> set_write_threshold(Graph& graph, const c::BlockSetWriteThreshold::Args& arguments) {
  Node* node = graph.find_node(arguments.node_name);
  if (node == nullptr) return fail(fmt::format("Device '{}' not found", arguments.node_name));
  node->set_write_threshold(arguments.write_threshold);
  return {};
}

// The format that a name in the header goes with: what the image stands on now.
std::string backing_format_of(Node& image, const std::string& name) {
  if (name.empty() || image.backing_node() == nullptr) return {};
  return std::string(image.backing_node()->skip_filters()->driver().name());
}

Task<Expected<void>> change_backing_file(Graph& graph, c::ChangeBackingFile::Args arguments) {
  MutexGuard guard = co_await graph.lock();
  auto top = graph.find_device_or_node(arguments.device, arguments.device);
  if (!top) co_return fail(std::move(top).error());
  if (!std::ranges::all_of((*top)->parents(), [](Edge* edge) {
        return dynamic_cast<Backend*>(&edge->parent()) != nullptr;
      })) {
    co_return fail("Need a root block node");
  }
  BB_CO_TRY(check_medium(**top));
  auto found = graph.find_device_or_node(std::nullopt, arguments.image_node_name);
  if (!found) co_return fail(std::move(found).error());
  Node& image = **found;
  if (image.filter_or_cow_node() == nullptr) {
    co_return fail("not allowing backing file change on an image without a backing file");
  }
  if (!chain_contains(**top, image)) {
    co_return fail(fmt::format("'{}' and image file are not in the same chain", arguments.device));
  }
  const std::string& name = arguments.backing_file;
  auto opened = co_await make_writable(graph, image);
  if (!opened) co_return fail(std::move(opened).error());
  auto changed =
      co_await image.driver().change_backing_file(name, backing_format_of(image, name), false);
  if (changed) image.set_header_backing_file(name);
  co_await leave_for_reading(graph, std::move(*opened));
  if (!changed) {
    co_return fail(fmt::format("Could not change backing file to '{}': {}", name,
                               changed.error().description));
  }
  co_return Expected<void>();
}

}  // namespace

Task<Expected<void>> add_blockdev(Graph& graph, json::Object options, bool keyval, bool keep_text) {
  MutexGuard guard = co_await graph.lock();
  const json::Value* name = options.find("node-name");
  if (name == nullptr) co_return fail("'node-name' must be specified for the root node");
  Graph::OpenRequest request;
  request.options = std::move(options);
  request.keyval = keyval;
  request.keep_text = keep_text;
  request.inherited = inherited_by_roots(graph);
  auto node = co_await graph.open(std::move(request));
  if (!node) {
    co_await graph.close_unreferenced();
    co_return fail(std::move(node).error());
  }
  graph.give_to_monitor(**node);
  co_return Expected<void>();
}

Task<Expected<void>> delete_blockdev(Graph& graph, std::string node_name) {
  MutexGuard guard = co_await graph.lock();
  Node* node = graph.find_node(node_name);
  if (node == nullptr)
    co_return fail(fmt::format("Failed to find node with node-name='{}'", node_name));
  if (std::ranges::any_of(node->parents(), [](Edge* edge) {
        return dynamic_cast<Backend*>(&edge->parent()) != nullptr;
      })) {
    co_return fail(fmt::format("Node {} is in use", node_name));
  }
  if (const BlockJob* job = job_on(*node)) {
    co_return fail(fmt::format("Node '{}' is busy: block device is in use by block job: {}",
                               node_name, job->type()));
  }
  BB_CO_TRY(node->operations().check(Operation::kDriveDel));
  if (std::ranges::find(graph.monitor_nodes(), node) == graph.monitor_nodes().end()) {
    co_return fail(fmt::format("Node {} is not owned by the monitor", node_name));
  }
  if (!node->parents().empty()) co_return fail(fmt::format("Block device {} is in use", node_name));
  graph.take_from_monitor(*node);
  co_await graph.close_unreferenced();
  co_return Expected<void>();
}

void register_block_node_commands(CommandTable& commands, Graph& graph) {
  commands.implement<c::BlockdevAdd>([&graph](CommandContext&, c::BlockdevAdd::Args arguments) {
    return add_blockdev(graph, to_json(arguments).as_object(), false);
  });
  commands.implement<c::BlockdevDel>([&graph](CommandContext&, c::BlockdevDel::Args arguments) {
    return delete_blockdev(graph, std::move(arguments.node_name));
  });
  commands.implement<c::BlockSetWriteThreshold>(
      [&graph](CommandContext&, c::BlockSetWriteThreshold::Args arguments) {
        return set_write_threshold(graph, arguments);
      });
  commands.implement<c::ChangeBackingFile>(
      [&graph](CommandContext&, c::ChangeBackingFile::Args arguments) {
        return change_backing_file(graph, std::move(arguments));
      });
  commands.implement<c::BlockResize>([&graph](CommandContext&, c::BlockResize::Args arguments) {
    return resize(graph, std::move(arguments));
  });
}

}  // namespace blockbed
