#include "block/graph/probe.h"

#include <algorithm>

#include "block/runtime/env.h"

namespace blockbed {

const DriverEntry* probe_format(const DriverRegistry& drivers, const ProbeInput& input) {
  const DriverEntry* best = nullptr;
  int best_score = 0;
  for (const DriverEntry& entry : drivers.entries()) {
    const int score = entry.probe == nullptr ? 0 : entry.probe(input);
    if (score <= best_score) continue;
    best_score = score;
    best = &entry;
  }
  return best;
}

Task<std::string> probe_file(Graph& graph, std::string path) {
  Buffer head = Buffer::zeroed(kProbeBytes);
  uint64_t length = 0;
  if (auto file = co_await graph.env().open_file(path, FileOpenOptions()); file) {
    auto info = co_await (*file)->info();
    length = info ? std::min<uint64_t>(info->size, kProbeBytes) : 0;
    if (length > 0 && !co_await (*file)->read(0, head.io(0, length))) length = 0;
    (void)co_await (*file)->close();
  }
  const DriverEntry* found = probe_format(graph.drivers(), {head.span().first(length), path});
  co_return found == nullptr ? "raw" : found->name;
}

}  // namespace blockbed
