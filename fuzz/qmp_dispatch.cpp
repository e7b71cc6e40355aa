// Sends the input to a whole server in the simulator, as a QMP client would, after the greeting and
// negotiation, then goes away. Two images and a job's worth of nodes are there to be named.
// Whatever is sent, the server answers and ends in order.
#include <string>
#include <string_view>

#include "block/sim/sim_env.h"
#include "block/sim/sim_network.h"
#include "block/sim/sim_storage.h"
#include "qmp/server/engine.h"

namespace {

using namespace blockbed;

constexpr std::string_view kBefore =
    R"({"execute": "qmp_capabilities"}
{"execute": "blockdev-add", "arguments": {"driver": "raw", "node-name": "disk", "file": {"driver": "file", "filename": "a"}}}
{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "nowhere", "size": 65536}}
)";

Task<void> drain_replies(Stream& stream) {
  std::byte buffer[4096];
  while (true) {
    auto count = co_await stream.read_some(buffer);
    if (!count || *count == 0) co_return;
  }
}

Task<void> talk(sim::SimEnv& env, server::Engine& engine, std::string_view input) {
  auto [ours, theirs] = env.network().make_pair();
  engine.monitor().start();
  engine.monitor().serve(std::move(theirs), MonitorMode::kControl);
  Gate gate(env.executor());
  gate.spawn(drain_replies(*ours));
  std::string text(kBefore);
  text += input;
  // A quote or bracket left open must not swallow what ends the session.
  (void)co_await ours->write_all(IoVector(text.data(), text.size()));
  // Time for what was asked: jobs, timers, retries.
  co_await env.sleep(2'000'000'000);
  ours->shutdown();
  co_await gate.close();
  co_await engine.wind_down();
  co_await engine.shut_down();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sim::SimEnv env(1);
  const std::vector<std::byte> disk(128 << 10);
  env.storage().put("a", disk);
  env.storage().put("b", disk);
  server::Engine engine(env, Manner::kDaemon, nullptr, {});
  env.run(talk(env, engine, std::string_view(reinterpret_cast<const char*>(data), size)));
  return 0;
}
