// A graph with all drivers over a simulated world, for tests of filters.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/filters/register.h"
#include "block/formats/register.h"
#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "block/protocols/register.h"
#include "block/runtime/event_sink.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"

namespace blockbed::test {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;

class FilterWorld : public EventSink {
 public:
  explicit FilterWorld(uint64_t seed) : env(seed) {
    register_protocols(drivers);
    register_formats(drivers);
    register_filters(drivers);
    graph.emplace(env, *this, drivers);
  }
  ~FilterWorld() { env.run(finish()); }

  using EventSink::emit;
  void emit(std::string_view event, json::Value data) override {
    events.emplace_back(event, std::move(data));
  }
  void tell(std::string_view line) override { told += line; }

  // A `file` node over a file, both of that name.
  Node& file(const std::string& name, sim::SparseBytes content) {
    env.storage().put(name, std::move(content));
    json::Object options;
    options.set("driver", "file");
    options.set("node-name", name);
    options.set("filename", name);
    return open(std::move(options));
  }
  Expected<Node*> try_open(json::Object options) {
    Graph::OpenRequest request;
    request.options = std::move(options);
    auto opened = env.run(graph->open(std::move(request)));
    if (!opened) return fail(std::move(opened).error());
    graph->give_to_monitor(**opened);
    return opened->get();
  }
  Node& open(json::Object options) {
    auto opened = try_open(std::move(options));
    if (!opened) {
      ADD_FAILURE() << opened.error().description;
      std::abort();
    }
    return **opened;
  }
  std::string refusal(json::Object options) {
    auto opened = try_open(std::move(options));
    EXPECT_FALSE(opened.has_value());
    return opened ? "" : opened.error().description;
  }
  Backend& guest(Node& node) {
    auto& made = guests.emplace_back(std::make_unique<Backend>(
        *graph, "",
        PermissionPair{Permission::kConsistentRead | Permission::kWrite, Permissions::all()}));
    const Expected<void> inserted = made->insert(node);
    if (!inserted) ADD_FAILURE() << inserted.error().description;
    return *made;
  }
  void drop_guests() {
    for (auto& guest : guests) env.run(guest->remove());
    guests.clear();
  }
  void drop(Node& node) {
    graph->take_from_monitor(node);
    env.run(graph->close_unreferenced());
  }

  Result<void> write(Backend& guest, uint64_t offset, uint64_t length, unsigned char byte,
                     RequestFlags flags = {}) {
    Buffer buffer(length);
    buffer.io().fill(byte);
    return env.run(guest.write(offset, buffer.io(), flags));
  }
  Result<std::vector<std::byte>> read(Backend& guest, uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length, std::byte{0xee});
    auto done = env.run(guest.read(offset, IoVector(bytes.data(), length)));
    if (!done) return io_error(done.error());
    return bytes;
  }
  // What a file holds, by nobody's leave.
  std::vector<std::byte> content(const std::string& name) {
    return env.storage().content(name).bytes();
  }
  static sim::SparseBytes filled(uint64_t size, unsigned char byte) {
    sim::SparseBytes content;
    content.resize(size);
    content.write(0, std::vector<std::byte>(size, std::byte{byte}));
    return content;
  }
  static json::Object options(std::string_view driver, std::string_view name) {
    json::Object result;
    result.set("driver", driver);
    result.set("node-name", name);
    return result;
  }

  sim::SimEnv env;
  std::vector<std::pair<std::string, json::Value>> events;
  std::string told;
  DriverRegistry drivers;
  std::optional<Graph> graph;
  std::vector<std::unique_ptr<Backend>> guests;

 private:
  Task<void> finish() {
    for (auto& guest : guests) co_await guest->remove();
    guests.clear();
    co_await graph->shutdown();
    graph.reset();
  }
};

}  // namespace blockbed::test
