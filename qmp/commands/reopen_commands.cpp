#include "qmp/commands/reopen_commands.h"

#include <fmt/format.h>

#include "block/graph/reopen.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_event.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Expected<std::vector<ReopenRequest>> requests_of(Graph& graph,
                                                 const std::vector<schema::BlockdevOptions>& all) {
  std::vector<ReopenRequest> requests;
  for (const schema::BlockdevOptions& options : all) {
    if (!options.node_name) return fail("node-name not specified");
    Node* node = graph.find_node(*options.node_name);
    if (node == nullptr) {
      return fail(fmt::format("Failed to find node with node-name='{}'", *options.node_name));
    }
    requests.emplace_back(NodeRef(*node), std::move(to_json(options).as_object()),
                          /*keep_others=*/false);
  }
  return requests;
}

Task<Expected<void>> reopen_command(Graph& graph, c::BlockdevReopen::Args arguments) {
  MutexGuard guard = co_await graph.lock();
  auto requests = requests_of(graph, arguments.options);
  if (!requests) co_return fail(std::move(requests).error());
  auto done = co_await reopen(graph, std::move(*requests));
  co_await graph.close_unreferenced();
  co_return done;
}

Task<Expected<void>> change_children(Graph& graph, c::XBlockdevChange::Args arguments) {
  MutexGuard guard = co_await graph.lock();
  auto found = graph.find_device_or_node(arguments.parent, arguments.parent);
  if (!found) co_return fail(std::move(found).error());
  Node& parent = **found;
  Driver& driver = parent.driver();
  if (arguments.child.has_value() == arguments.node.has_value()) {
    co_return fail(arguments.child ? "The parameters child and node are in conflict"
                                   : "Either child or node must be specified");
  }
  Expected<void> done;
  if (arguments.child) {
    Edge* edge = parent.child(*arguments.child);
    if (edge == nullptr) {
      co_return fail(
          fmt::format("Node '{}' does not have child '{}'", arguments.parent, *arguments.child));
    }
    done = co_await driver.remove_child(*edge);
  } else {
    Node* child = graph.find_node(*arguments.node);
    if (child == nullptr) co_return fail(fmt::format("Node '{}' not found", *arguments.node));
    if (driver.takes_children() && !child->parents().empty()) {
      co_return fail(fmt::format("The node {} already has a parent", child->name()));
    }
    done = co_await driver.add_child(*child);
  }
  co_await graph.close_unreferenced();
  co_return done;
}

}  // namespace

void register_reopen_commands(CommandTable& commands, Graph& graph) {
  commands.implement<c::BlockdevReopen>(
      [&graph](CommandContext&, c::BlockdevReopen::Args arguments) {
        return reopen_command(graph, std::move(arguments));
      });
  commands.implement<c::XBlockdevChange>(
      [&graph](CommandContext&, c::XBlockdevChange::Args arguments) {
        return change_children(graph, std::move(arguments));
      });
}

}  // namespace blockbed
