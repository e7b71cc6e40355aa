#include "qmp/commands/block_query.h"

#include <algorithm>
#include <map>
#include <ranges>

#include "block/graph/backend.h"
#include "block/jobs/block_job.h"
#include "block/jobs/job_registry.h"
#include "qmp/commands/block_report.h"
#include "qmp/monitor/command_context.h"
#include "schema/block_graph.h"
#include "schema/block_info.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

Task<Expected<std::vector<schema::BlockInfo>>> query_block(Graph& graph,
                                                           const DeviceDirectory& devices) {
  // A job that ends changes the graph, and what is told of a node takes I/O in between.
  const MutexGuard lock = co_await graph.lock();
  std::vector<schema::BlockInfo> infos;
  for (const Backend* backend : std::vector<Backend*>(graph.backends())) {
    if (is_visible(*backend, devices)) infos.push_back(co_await block_info(*backend, devices));
  }
  co_return infos;
}

Task<Expected<std::vector<schema::BlockDeviceInfo>>> query_nodes(Graph& graph, bool flat) {
  // As above: and who held nodes meanwhile would keep a job from closing them.
  const MutexGuard lock = co_await graph.lock();
  std::vector<schema::BlockDeviceInfo> infos;
  for (Node* node : graph.nodes()) {
    if (node->is_open()) infos.push_back(co_await block_device_info(*node, nullptr, flat));
  }
  co_return infos;
}

std::vector<schema::BlockStats> query_stats(Graph& graph, const DeviceDirectory& devices,
                                            bool query_nodes) {
  std::vector<schema::BlockStats> stats;
  if (query_nodes) {
    const std::vector<Node*> nodes = graph.nodes();
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      if ((*node)->is_open()) stats.push_back(node_stats(**node, false));
    }
    return stats;
  }
  for (Backend* backend : graph.backends()) {
    if (is_visible(*backend, devices)) stats.push_back(root_stats(*backend, devices));
  }
  return stats;
}

// Numbers vertices in the order in which they are first met, as QEMU does.
class GraphDump {
 public:
  explicit GraphDump(schema::XDbgBlockGraph& out) : out_(out) {}

  void vertex(const void* key, schema::XDbgBlockGraphNodeType type, std::string name) {
    schema::XDbgBlockGraphNode node;
    node.id = number(key);
    node.type = type;
    node.name = std::move(name);
    out_.nodes.push_back(std::move(node));
  }
  void edge(const void* parent, const Edge& edge) {
    if (edge.node() == nullptr) return;
    schema::XDbgBlockGraphEdge out;
    out.parent = number(parent);
    out.child = number(edge.node());
    out.name = edge.name();
    out.perm = names(edge.permissions().needs);
    out.shared_perm = names(edge.permissions().shares);
    out_.edges.push_back(std::move(out));
  }

 private:
  static std::vector<schema::BlockPermission> names(Permissions permissions) {
    static constexpr std::pair<Permission, schema::BlockPermission> kNames[] = {
        {Permission::kConsistentRead, schema::BlockPermission::kConsistentRead},
        {Permission::kWrite, schema::BlockPermission::kWrite},
        {Permission::kWriteUnchanged, schema::BlockPermission::kWriteUnchanged},
        {Permission::kResize, schema::BlockPermission::kResize}};
    std::vector<schema::BlockPermission> result;
    for (const auto& [permission, name] : kNames) {
      if (permissions.has(permission)) result.push_back(name);
    }
    std::ranges::reverse(result);
    return result;
  }
  uint64_t number(const void* key) {
    return numbers_.emplace(key, numbers_.size() + 1).first->second;
  }

  schema::XDbgBlockGraph& out_;
  std::map<const void*, uint64_t> numbers_;
};

schema::XDbgBlockGraph query_graph(Graph& graph, const JobRegistry& jobs,
                                   const DeviceDirectory& devices) {
  schema::XDbgBlockGraph result;
  GraphDump dump(result);
  for (Backend* backend : graph.backends()) {
    std::string name = backend->name();
    if (name.empty()) {
      if (auto face = devices.device_of(*backend)) name = face->qdev;
    }
    dump.vertex(backend, schema::XDbgBlockGraphNodeType::kBlockBackend, std::move(name));
    dump.edge(backend, backend->edge());
  }
  const std::vector<Node*> nodes = graph.nodes();
  for (const std::shared_ptr<Job>& any : jobs.jobs()) {
    const auto* job = dynamic_cast<const BlockJob*>(any.get());
    if (job == nullptr) continue;
    dump.vertex(job, schema::XDbgBlockGraphNodeType::kBlockJob, job->id());
    for (const auto& edge : std::views::reverse(job->edges())) dump.edge(job, *edge);
  }
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    dump.vertex(*node, schema::XDbgBlockGraphNodeType::kBlockDriver, (*node)->name());
    // The child that came last is met first.
    for (const auto& edge : std::views::reverse((*node)->children())) dump.edge(*node, *edge);
  }
  // QEMU builds its lists from the end.
  std::ranges::reverse(result.nodes);
  std::ranges::reverse(result.edges);
  return result;
}

}  // namespace

void register_block_query_commands(CommandTable& commands, Graph& graph, const JobRegistry& jobs,
                                   const DeviceDirectory& devices) {
  commands.implement<c::QueryBlock>([&graph, &devices](CommandContext&, c::QueryBlock::Args) {
    return query_block(graph, devices);
  });
  commands.implement<c::QueryNamedBlockNodes>(
      [&graph](CommandContext&, c::QueryNamedBlockNodes::Args arguments) {
        return query_nodes(graph, arguments.flat.value_or(false));
      });
  commands.implement<c::QueryBlockstats>(
      [&graph, &devices](
          CommandContext&,
          c::QueryBlockstats::Args arguments) -> Expected<std::vector<schema::BlockStats>> {
        return query_stats(graph, devices, arguments.query_nodes.value_or(false));
      });
  commands.implement<c::XDebugQueryBlockGraph>(
      [&graph, &jobs, &devices](
          CommandContext&, c::XDebugQueryBlockGraph::Args) -> Expected<schema::XDbgBlockGraph> {
        return query_graph(graph, jobs, devices);
      });
}

}  // namespace blockbed
