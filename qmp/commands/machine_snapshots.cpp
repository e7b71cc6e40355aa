#include "qmp/commands/machine_snapshots.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "block/filters/snapshot_access.h"
#include "block/graph/backend.h"
#include "block/graph/drain.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/shown_name.h"
#include "block/runtime/env.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/snapshot_text.h"

namespace blockbed {

namespace {

// What is kept of a machine: that it was ours, and of what type.
constexpr std::string_view kStateMagic = "Blockbed machine state 1\n";
// A name of a type is never longer.
constexpr uint64_t kMostStateBytes = kStateMagic.size() + 256;

// A disk of the machine, what else guests or clients write to (an export of a backing file), or
// what the user has opened for one.
bool is_disk(const Node& node) {
  if (node.flags().read_only || reads_internal_snapshot(node)) return false;
  const auto is_root = [](const Edge* edge) {
    return dynamic_cast<const Backend*>(&edge->parent()) != nullptr;
  };
  const auto& parents = node.parents();
  return std::ranges::any_of(parents, is_root) ||
         std::ranges::all_of(parents,
                             [](const Edge* edge) { return reads_internal_snapshot(*edge); });
}

std::vector<InternalSnapshot> snapshots_of(const Node& node) {
  auto list = list_internal_snapshots(node);
  return list ? std::move(*list) : std::vector<InternalSnapshot>();
}

std::optional<InternalSnapshot> find_on(const Node& node, const std::string& name) {
  const std::vector<InternalSnapshot> all = snapshots_of(node);
  const InternalSnapshot* found = find_internal_snapshot(all, std::nullopt, name);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

std::vector<NodeRef> all_disks(const Graph& graph) {
  std::vector<NodeRef> disks;
  const auto add = [&](Node* node) {
    if (node == nullptr || !is_disk(*node)) return;
    if (std::ranges::any_of(disks, [&](const NodeRef& disk) { return disk.get() == node; })) return;
    disks.emplace_back(*node);
  };
  for (const Backend* backend : graph.backends()) add(backend->node());
  for (Node* node : graph.monitor_nodes()) add(node);
  return disks;
}

}  // namespace

// --- which disks

Expected<MachineSnapshots::Disks> MachineSnapshots::disks_of(const Place& place) const {
  Disks disks;
  if (place.disks) {
    if (place.disks->empty()) return fail("At least one device is required for snapshot");
    for (const std::string& name : *place.disks) {
      auto found = graph_.find_device_or_node(name, name);
      if (!found) return fail(fmt::format("No block device node '{}'", name));
      disks.emplace_back(**found);
    }
  } else {
    disks = all_disks(graph_);
  }
  for (const NodeRef& disk : disks) {
    if (can_take_internal_snapshots(*disk)) continue;
    return fail(
        fmt::format("Device '{}' is writable but does not support snapshots", shown_name(*disk)));
  }
  return disks;
}

Expected<Node*> MachineSnapshots::state_keeper(const Disks& disks, const Place& place) const {
  if (!place.vmstate) {
    if (disks.empty()) return fail("no block device can store vmstate for snapshot");
    return disks.front().get();
  }
  for (const NodeRef& disk : disks) {
    if (disk->name() == *place.vmstate) return disk.get();
  }
  return fail(fmt::format("vmstate block device '{}' does not exist", *place.vmstate));
}

// --- saving

Task<Expected<void>> MachineSnapshots::save(std::optional<std::string> name, Existing existing,
                                            Place place) {
  MutexGuard lock = co_await graph_.lock();
  const bool was_running = status_.running();
  Expected<void> done = co_await save_stopped(std::move(name), existing, place);
  if (was_running && !status_.running()) (void)status_.resume();
  co_return done;
}

Task<Expected<void>> MachineSnapshots::save_stopped(std::optional<std::string> name,
                                                    Existing existing, const Place& place) {
  auto disks = disks_of(place);
  if (!disks) co_return fail(std::move(disks).error());
  if (name && existing == Existing::kReplace) {
    BB_CO_TRY(co_await remove_from(*disks, *name));
  } else if (name) {
    for (const NodeRef& disk : *disks) {
      if (!find_on(*disk, *name)) continue;
      co_return fail(fmt::format("Snapshot '{}' already exists in one or more devices", *name));
    }
  }
  auto keeper = state_keeper(*disks, place);
  if (!keeper) co_return fail(std::move(keeper).error());

  status_.stop(schema::RunState::kSaveVm);
  DrainedSection drained = co_await drain_all(graph_);
  const WallTime now = graph_.env().wall_time();
  auto state_size = co_await write_state(**keeper);
  if (!state_size) co_return fail(std::move(state_size).error());
  const std::string made_up = fmt::format("vm-{:%Y%m%d%H%M%S}", local_time(now.seconds));
  for (const NodeRef& disk : *disks) {
    InternalSnapshot snapshot;
    snapshot.name = name.value_or(made_up);
    snapshot.seconds = now.seconds;
    snapshot.nanoseconds = now.microseconds * 1000;
    snapshot.vm_clock_ns = static_cast<uint64_t>(graph_.guest_clock().now());
    if (disk.get() == *keeper) snapshot.vm_state_size = *state_size;
    if (auto made = co_await internal_snapshots_of(*disk)->create(snapshot); !made) {
      co_return fail(
          fmt::format("Could not create snapshot '{}' on '{}'", snapshot.name, shown_name(*disk)));
    }
  }
  co_return Expected<void>();
}

Task<Expected<uint64_t>> MachineSnapshots::write_state(Node& keeper) {
  std::string state = std::string(kStateMagic) + identity_.machine_type;
  auto written = co_await write_vm_state(keeper, 0, IoVector(state.data(), state.size()));
  if (written) written = co_await keeper.flush();
  // Whatever the error: QEMU's buffer between the machine and the disk makes it this one.
  if (!written) {
    co_return fail(fmt::format("Error while writing VM state: {}", strerror_text(EIO)));
  }
  co_return state.size();
}

// --- loading

Task<Expected<void>> MachineSnapshots::load(std::string name, Place place) {
  MutexGuard lock = co_await graph_.lock();
  const bool was_running = status_.running();
  status_.stop(schema::RunState::kRestoreVm);
  Expected<void> done = co_await load_stopped(std::move(name), place);
  if (done && was_running) done = status_.resume();
  co_return done;
}

Task<Expected<void>> MachineSnapshots::load_stopped(std::string name, const Place& place) {
  auto disks = disks_of(place);
  if (!disks) co_return fail(std::move(disks).error());
  const bool everywhere = std::ranges::all_of(
      *disks, [&](const NodeRef& disk) { return find_on(*disk, name).has_value(); });
  if (!everywhere) {
    co_return fail(fmt::format("Snapshot '{}' does not exist in one or more devices", name));
  }
  auto keeper = state_keeper(*disks, place);
  if (!keeper) co_return fail(std::move(keeper).error());
  const uint64_t state_size = find_on(**keeper, name)->vm_state_size;
  if (state_size == 0) {
    co_return fail("This is a disk-only snapshot. Revert to it  offline using qemu-img");
  }

  DrainedSection drained = co_await drain_all(graph_);
  for (const NodeRef& disk : *disks) {
    auto applied = co_await internal_snapshots_of(*disk)->apply(find_on(*disk, name)->id);
    if (applied) continue;
    co_return fail(fmt::format("Could not load snapshot '{}' on '{}': {}", name, shown_name(*disk),
                               applied.error().description));
  }
  co_return co_await read_state(**keeper, state_size);
}

Task<Expected<void>> MachineSnapshots::read_state(Node& keeper, uint64_t size) {
  std::string state(std::min(size, kMostStateBytes), '\0');
  auto read = co_await read_vm_state(keeper, 0, IoVector(state.data(), state.size()));
  // What cannot be read is told as what is no state: in QEMU the stream just ends there.
  if (!read || state != std::string(kStateMagic) + identity_.machine_type) {
    co_return fail(fmt::format("Error {} while loading VM state", -EINVAL));
  }
  co_return Expected<void>();
}

// --- removing

Task<Expected<void>> MachineSnapshots::remove(std::string name, Place place) {
  MutexGuard lock = co_await graph_.lock();
  auto disks = disks_of(place);
  if (!disks) co_return fail(std::move(disks).error());
  co_return co_await remove_from(*disks, std::move(name));
}

Task<Expected<void>> MachineSnapshots::remove_from(const Disks& disks, std::string name) {
  for (const NodeRef& disk : disks) {
    const std::optional<InternalSnapshot> snapshot = find_on(*disk, name);
    if (!snapshot) continue;
    auto removed = co_await internal_snapshots_of(*disk)->remove(snapshot->id);
    if (removed) continue;
    co_return fail(fmt::format("Could not delete snapshot '{}' on '{}': {}", name,
                               shown_name(*disk), removed.error().description));
  }
  co_return Expected<void>();
}

// --- the list

std::string MachineSnapshots::list() const {
  const Disks disks = all_disks(graph_);
  const auto keeper = std::ranges::find_if(
      disks, [](const NodeRef& disk) { return can_take_internal_snapshots(*disk); });
  if (keeper == disks.end()) return "no block device can store vmstate for snapshot\n";

  const auto on_all = [&](const InternalSnapshot& snapshot) {
    return std::ranges::all_of(
        disks, [&](const NodeRef& disk) { return find_on(*disk, snapshot.name).has_value(); });
  };
  std::string whole, partial;
  for (const InternalSnapshot& snapshot : snapshots_of(**keeper)) {
    if (!on_all(snapshot)) continue;
    schema::SnapshotInfo info = snapshot_info(snapshot);
    info.id = "--";
    whole += snapshot_line(info);
  }
  for (const NodeRef& disk : disks) {
    std::string lines;
    for (const InternalSnapshot& snapshot : snapshots_of(*disk)) {
      if (!on_all(snapshot)) lines += snapshot_line(snapshot_info(snapshot));
    }
    if (lines.empty()) continue;
    partial +=
        fmt::format("\nList of partial (non-loadable) snapshots on '{}':\n", disk->device_name()) +
        snapshot_head() + lines;
  }
  if (whole.empty() && partial.empty()) return "There is no snapshot available.\n";
  return "List of snapshots present on all disks:\n" +
         (whole.empty() ? std::string("None\n") : snapshot_head() + whole) + partial;
}

}  // namespace blockbed
