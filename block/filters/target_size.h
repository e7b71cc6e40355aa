// Targets of copies that have another size than the source: none but the rest of a sector.
//
// Problem: disks are made of sectors, files are not. An image that is made for a disk of 1000 bytes
// has 1024, and clients are told the same size for both.
//
// Contract: what the target has behind the source reads as zeroes on any disk, so it must be
// zeroes. Source of the rule: sizes as query-named-block-nodes of QEMU 7.2 shows them.
// Threading: engine thread only.
#pragma once

#include <cstdint>

#include "block/runtime/result.h"
#include "block/runtime/task.h"

namespace blockbed {

class Edge;
class Node;

// The same, or the target has the rest of the source's last sector too.
bool same_sectors(const Node& source, const Node& target);

// Writes only where zeroes are not there already.
Task<Result<void>> zero_rest_of_sector(Edge& target, uint64_t source_length);

}  // namespace blockbed
