// A whole export stack in a simulated world: a graph over a disk in memory, the registry, the NBD
// server and its clients.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/server.h"
#include "block/graph/drain.h"
#include "block/graph/graph.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_network.h"
#include "tests/exports/nbd_client_fixture.h"
#include "tests/support/memory_driver.h"

namespace blockbed::nbd::test {

class World {
 public:
  static constexpr uint64_t kDiskSize = 1 << 20;

  explicit World(uint64_t seed) : env(seed) {
    disk.bytes.resize(kDiskSize);
    registry.add(blockbed::test::memory_entry(disk));
    graph.emplace(env, events, registry);
    exports.emplace(*graph);
    server.emplace(*exports);
  }
  // Everything must have ended by then; that it has is asserted by those who die.
  ~World() {
    env.run(finish());
    server.reset();
    exports.reset();
    graph.reset();
  }

  Task<void> finish() {
    if (server->running()) (void)co_await server->stop();
    co_await exports->remove_all();
    if (device) co_await device->remove();
    device.reset();
    co_await graph->shutdown();
  }

  Task<Node*> open_node(std::string name, bool read_only = false) {
    MutexGuard guard = co_await graph->lock();
    Graph::OpenRequest request;
    request.options.set("driver", "null-co");
    request.options.set("node-name", name);
    if (read_only) request.options.set("read-only", true);
    Expected<NodeRef> node = co_await graph->open(std::move(request));
    if (!node) {
      ADD_FAILURE() << node.error().description;
      co_return nullptr;
    }
    graph->give_to_monitor(**node);
    co_return node->get();
  }
  // A drive with that node in it, as -drive makes one.
  void insert_device(std::string name, Node& node) {
    device.emplace(*graph, std::move(name),
                   PermissionPair{Permission::kConsistentRead, Permissions::all()});
    if (const Expected<void> inserted = device->insert(node); !inserted)
      ADD_FAILURE() << inserted.error().description;
  }

  // The error's text, "" for success.
  Task<std::string> start(uint32_t max_connections = 100) {
    NbdServerSettings settings;
    settings.address = UnixAddress{"nbd.sock"};
    settings.max_connections = max_connections;
    co_return text(co_await server->start(std::move(settings)));
  }
  Task<std::string> stop() { co_return text(co_await server->stop()); }
  static schema::BlockExportOptions options(std::string id, std::string node,
                                            bool writable = false) {
    schema::BlockExportOptions options;
    options.id = std::move(id);
    options.node_name = std::move(node);
    options.writable = writable;
    options.u = schema::BlockExportOptionsNbd();
    return options;
  }
  Task<std::string> add(schema::BlockExportOptions options) {
    co_return text(co_await exports->add(options));
  }
  Task<std::string> remove(std::string id, bool hard = false) {
    co_return text(co_await exports->remove(
        id, hard ? schema::BlockExportRemoveMode::kHard : schema::BlockExportRemoveMode::kSafe));
  }
  // Started, with one node and a writable export of it.
  Task<void> start_with_disk() {
    EXPECT_EQ(co_await start(), "");
    co_await open_node("disk");
    EXPECT_EQ(co_await add(options("disk", "disk", true)), "");
  }

  Task<std::unique_ptr<Client>> connect() {
    Result<std::unique_ptr<Stream>> stream = co_await env.connect(UnixAddress{"nbd.sock"});
    if (!stream) co_return nullptr;
    co_return std::make_unique<Client>(*std::move(stream));
  }
  // Null when the server said no.
  Task<std::unique_ptr<Client>> client(std::string name, bool structured = true,
                                       std::vector<std::string> contexts = {}) {
    std::unique_ptr<Client> made = co_await connect();
    if (made == nullptr || !co_await made->go(std::move(name), structured, std::move(contexts)))
      co_return nullptr;
    co_return made;
  }
  Task<void> wait_for_connections(std::size_t count) {
    while (server->connections() != count) co_await env.sleep(10'000);
  }

  std::vector<std::string> deleted() const {
    std::vector<std::string> ids;
    for (const auto& [name, data] : events.events) {
      if (name == "BLOCK_EXPORT_DELETED") ids.push_back(data.as_object().find("id")->as_string());
    }
    return ids;
  }

  static std::string text(const Expected<void>& result) {
    return result ? "" : result.error().description;
  }

  sim::SimEnv env;
  blockbed::test::RecordedEvents events;
  DriverRegistry registry;
  blockbed::test::MemoryDisk disk;
  std::optional<Graph> graph;
  std::optional<ExportRegistry> exports;
  std::optional<NbdServer> server;
  std::optional<Backend> device;
};

}  // namespace blockbed::nbd::test
