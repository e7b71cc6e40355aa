// An NBD server out of this room alone, for measurements and for clients that we did not write.
//
//     example_server SOCKET '{"blockdev": {...}}' '{"export": {...}}' ...
//
// Each argument opens a node (options of blockdev-add) or exports one (options of
// block-export-add). It serves until it gets SIGTERM or SIGINT, then stops in order.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <string>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/server.h"
#ifdef BLOCKBED_WITH_FORMATS
#include "block/formats/register.h"
#endif
#include "block/graph/graph.h"
#include "block/protocols/register.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/production_env.h"
#include "qmp/schema/json_parse.h"

namespace blockbed {
namespace {

struct PrintedEvents final : EventSink {
  void emit(std::string_view event, json::Value) override {
    fmt::print(stderr, "event: {}\n", event);
  }
};

struct Engine {
  explicit Engine(ProductionEnv& env) : graph(env, events, drivers), exports(graph), nbd(exports) {
    register_protocols(drivers);
#ifdef BLOCKBED_WITH_FORMATS
    register_formats(drivers);
#endif
  }

  PrintedEvents events;
  DriverRegistry drivers;
  Graph graph;
  ExportRegistry exports;
  nbd::NbdServer nbd;
};

Task<Expected<void>> open_node(Engine& engine, json::Object options) {
  MutexGuard guard = co_await engine.graph.lock();
  Graph::OpenRequest request;
  request.options = std::move(options);
  Expected<NodeRef> node = co_await engine.graph.open(std::move(request));
  if (!node) co_return fail(std::move(node).error());
  engine.graph.give_to_monitor(**node);
  co_return {};
}

Task<Expected<void>> prepare(Engine& engine, std::string socket, std::vector<json::Object> steps) {
  nbd::NbdServerSettings settings;
  settings.address = UnixAddress{std::move(socket)};
  BB_CO_TRY(co_await engine.nbd.start(std::move(settings)));
  for (json::Object& step : steps) {
    if (step.contains("blockdev")) {
      BB_CO_TRY(co_await open_node(engine, step.take("blockdev").as_object()));
    } else {
      const Expected<schema::BlockExportOptions> options =
          schema::from_json<schema::BlockExportOptions>(step.take("export"));
      if (!options) co_return fail(options.error());
      BB_CO_TRY(co_await engine.exports.add(*options));
    }
  }
  co_return {};
}

Task<void> finish(Engine& engine) {
  if (engine.nbd.running()) (void)co_await engine.nbd.stop();
  co_await engine.graph.shutdown();
}

int serve(int count, char** arguments) {
  std::vector<json::Object> steps;
  for (int i = 2; i < count; ++i) {
    Expected<json::Value> step = json::parse(arguments[i]);
    if (!step || !step->is_object()) {
      fmt::print(stderr, "{}: not a JSON object\n", arguments[i]);
      return 1;
    }
    steps.push_back(step->as_object());
  }
  ProductionEnv env;
  Engine engine(env);
  for (const int signal : {SIGTERM, SIGINT}) env.on_signal(signal, [&env] { env.stop(); });
  const Expected<void> ready =
      env.run_until_complete(prepare(engine, arguments[1], std::move(steps)));
  if (!ready) {
    fmt::print(stderr, "{}\n", ready.error().description);
  } else {
    fmt::print("ready\n");
    std::fflush(stdout);
    env.run();
  }
  env.run_until_complete(finish(engine));
  return ready ? 0 : 1;
}

}  // namespace
}  // namespace blockbed

int main(int count, char** arguments) {
  if (count < 2) {
    fmt::print(stderr, "usage: example_server SOCKET STEP...\n");
    return 1;
  }
  return blockbed::serve(count, arguments);
}
