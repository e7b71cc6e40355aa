// ImageMap: which layer of a chain holds which part of a disk, and where.
//
// Problem: `map` of an image tells, run by run, in which file the bytes lie and how deep in the
// chain of backing files, with runs as long as the same answer holds.
//
// Contract: next_run() starts at `offset` and goes on until the answer changes or `end` is reached;
// `depth` counts backing files, filters are looked through. A run is at least one byte long.
// Units: bytes. Errors: errno of a layer. Threading: engine thread only.
// Source of the rule: what `qemu-img map` of QEMU 7.2 prints.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/graph/node.h"

namespace blockbed {

struct MapRun {
  uint64_t start = 0;
  uint64_t length = 0;
  int depth = 0;
  // A layer has an answer of its own; without one the bytes are zeroes because nothing is there.
  bool present = false;
  bool zero = false;
  bool data = false;
  // Where the bytes are in `file`, when they are there as they are read.
  std::optional<uint64_t> offset;
  // Name of that file.
  std::string file;
};

Task<Result<MapRun>> next_run(Node& top, uint64_t offset, uint64_t end);

}  // namespace blockbed
