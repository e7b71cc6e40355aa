// Opens the input as a node of the graph, as a server does: probing apart, options, the driver's
// facts, snapshots, then block status and some reads. An odd number of bytes: also for writing,
// which repairs a dirty image. Whatever the bytes say, the answer is data or an error, in bounded
// time and memory. Speed is in qcow2_read.cpp, which leaves the graph out.
#include <algorithm>

#include "block/formats/register.h"
#include "block/graph/graph.h"
#include "block/protocols/register.h"
#include "block/runtime/event_sink.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "fuzz/qcow2_mutator.h"
#include "schema/block_core.h"

namespace {

using namespace blockbed;

constexpr uint64_t kPiece = 64 << 10;
constexpr uint64_t kMostRead = 1 << 20;

struct NoEvents final : EventSink {
  void emit(std::string_view, json::Value) override {}
};

Task<void> read_through(Node& node) {
  const uint64_t length = node.length();
  Buffer buffer(kPiece);
  const auto look_at = [](Node& n, Buffer& b, uint64_t offset, uint64_t size) -> Task<void> {
    (void)co_await n.block_status(offset, size);
    (void)co_await n.read(offset, b.io(0, size));
  };
  for (uint64_t offset = 0; offset < std::min(length, kMostRead); offset += kPiece) {
    co_await look_at(node, buffer, offset, std::min(kPiece, length - offset));
  }
  for (uint64_t fraction = 1; length > kMostRead && fraction <= 8; ++fraction) {
    const uint64_t offset = (length - kPiece) / 8 * fraction;
    co_await look_at(node, buffer, offset, kPiece);
  }
}

Task<void> open_and_read(Graph& graph, bool writable) {
  Graph::OpenRequest request;
  json::Object file;
  file.set("driver", "file");
  file.set("filename", "image");
  request.options.set("driver", "qcow2");
  request.options.set("read-only", !writable);
  request.options.set("file", std::move(file));
  {
    auto node = co_await graph.open(std::move(request));
    if (node) {
      (void)(*node)->driver().info();
      (void)(*node)->driver().specific_info();
      co_await read_through(**node);
    }
  }
  co_await graph.close_unreferenced();
  co_await graph.shutdown();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static DriverRegistry* const drivers = [] {
    auto* registry = new DriverRegistry;
    register_protocols(*registry);
    register_formats(*registry);
    return registry;
  }();
  sim::SimEnv env(1);
  env.storage().put("image", std::as_bytes(std::span(data, size)));
  NoEvents events;
  Graph graph(env, events, *drivers);
  // What an image names is not ours to open here.
  graph.deny_files_named_by_images(true);
  env.run(open_and_read(graph, size % 2 == 1));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  return blockbed::fuzz::mutate_image(data, size, most, seed);
}
