#include "qmp/commands/iothread_commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_event.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

bool has_root(const Node& node) {
  return std::ranges::any_of(node.parents(), [](Edge* edge) {
    return dynamic_cast<Backend*>(&edge->parent()) != nullptr;
  });
}

Task<Expected<void>> set_iothread(Graph& graph, ObjectStore& objects,
                                  c::XBlockdevSetIothread::Args arguments) {
  MutexGuard guard = co_await graph.lock();
  Node* node = graph.find_node(arguments.node_name);
  if (node == nullptr) {
    co_return fail(fmt::format("Failed to find node with node-name='{}'", arguments.node_name));
  }
  if (!arguments.force.value_or(false) && has_root(*node)) {
    co_return fail(
        fmt::format("Node {} is associated with a BlockBackend and could be in use (use force=true "
                    "to override this check)",
                    node->name()));
  }
  IoContext context;
  if (const auto* id = std::get_if<std::string>(&arguments.iothread.u)) {
    context = objects.iothread(*id);
    if (context == nullptr) co_return fail(fmt::format("Cannot find iothread {}", *id));
  }
  if (node->context() == context) co_return Expected<void>();
  // As everywhere, nothing is in flight when something is changed.
  const DrainedSection drained = co_await drain(*node);
  co_return move_to_context(*node, std::move(context));
}

}  // namespace

void register_iothread_commands(CommandTable& commands, Graph& graph, ObjectStore& objects) {
  commands.implement<c::XBlockdevSetIothread>(
      [&graph, &objects](CommandContext&, c::XBlockdevSetIothread::Args arguments) {
        return set_iothread(graph, objects, std::move(arguments));
      });
}

}  // namespace blockbed
