// Reports on nodes and roots: the objects that query-block and its like are made of.
//
// Contract: each function looks at the graph as it is and may do I/O of the cheapest kind (the
// space that a file takes); the nodes must stay while it runs, which the dispatcher's
// one-command-at-a-time and the graph lock see to. Source of the rule: shapes and values of
// QEMU 7.2's replies. Threading: engine thread.
#pragma once

#include <optional>
#include <string>

#include "block/graph/backend.h"
#include "block/graph/graph.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/node.h"
#include "block/runtime/task.h"
#include "qmp/commands/device_directory.h"
#include "qmp/schema/error.h"
#include "schema/block_info.h"

namespace blockbed {

// Space taken on the host by the node and the children that hold its data; no value when nobody
// knows.
Task<std::optional<uint64_t>> allocated_bytes(Node& node);

// Cluster size and the like; no value for drivers that have no such facts (null-co, nbd).
std::optional<DriverInfo> driver_facts(const Node& node);

schema::SnapshotInfo snapshot_info(const InternalSnapshot& snapshot);

// One image, without those below it.
Task<schema::ImageInfo> image_info(Node& node);

// `backend` null: the node as such. `flat` leaves out the images below.
Task<schema::BlockDeviceInfo> block_device_info(Node& node, const Backend* backend, bool flat);

// The entry of query-block; the backend has a name or a device.
Task<schema::BlockInfo> block_info(const Backend& backend, const DeviceDirectory& devices);

// Node statistics; `from_root` as query-blockstats without query-nodes has them, with what lies
// below.
schema::BlockStats node_stats(Node& node, bool from_root);
schema::BlockStats root_stats(Backend& backend, const DeviceDirectory& devices);

// True when clients see it: by its name or by its device.
bool is_visible(const Backend& backend, const DeviceDirectory& devices);

}  // namespace blockbed
