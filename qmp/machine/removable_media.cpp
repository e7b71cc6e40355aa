#include "qmp/machine/removable_media.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/exports/export_registry.h"
#include "block/graph/backend.h"
#include "block/runtime/event_sink.h"

namespace blockbed {

namespace {

bool has_backend(const Node& node) {
  return std::ranges::any_of(node.parents(), [](const Edge* edge) {
    return dynamic_cast<const Backend*>(&edge->parent()) != nullptr;
  });
}

}  // namespace

Expected<RemovableMedia::Place> RemovableMedia::find(const DriveName& drive) const {
  if (drive.device.has_value() == drive.id.has_value()) {
    return fail("Need exactly one of 'device' and 'id'");
  }
  return drive.device ? machine_.medium_place_of_drive(*drive.device)
                      : machine_.medium_place_of_device(*drive.id);
}

Expected<void> RemovableMedia::move_tray(const Place& place, const DriveName& drive, bool open) {
  if (!place.removable) return fail(fmt::format("Device '{}' is not removable", drive.text()));
  if (place.tray_open == nullptr || *place.tray_open == open) return {};
  *place.tray_open = open;
  graph_.events().emit(
      "DEVICE_TRAY_MOVED",
      json::Object{{"device", place.backend->name()}, {"id", place.qdev}, {"tray-open", open}});
  return {};
}

Task<Expected<void>> RemovableMedia::take_out(const Place& place, const DriveName& drive) {
  if (!place.removable) co_return fail(fmt::format("Device '{}' is not removable", drive.text()));
  if (place.tray_open != nullptr && !*place.tray_open) {
    co_return fail(fmt::format("Tray of device '{}' is not open", drive.text()));
  }
  Node* node = place.backend->node();
  if (node == nullptr) co_return Expected<void>();
  BB_CO_TRY(node->operations().check(Operation::kEject));
  *place.flags = node->flags();
  co_await exports_.medium_removed(*place.backend);
  MutexGuard guard = co_await graph_.lock();
  co_await place.backend->remove();
  co_await graph_.close_unreferenced();
  co_return Expected<void>();
}

Expected<void> RemovableMedia::put_in(const Place& place, Node& node) {
  if (!place.removable) return fail("Device is not removable");
  if (place.tray_open != nullptr && !*place.tray_open) {
    return fail("Tray of the device is not open");
  }
  if (place.backend->node() != nullptr) return fail("There already is a medium in the device");
  if (place.writes_if_possible) {
    PermissionPair wanted = place.backend->wanted_permissions();
    wanted.needs = wanted.needs - Permission::kWrite;
    if (!node.flags().read_only) wanted.needs |= Permission::kWrite;
    BB_TRY(place.backend->set_permissions(wanted));
  }
  return place.backend->insert(node);
}

Task<Expected<void>> RemovableMedia::open_tray(DriveName drive) {
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  co_return move_tray(*place, drive, true);
}

Task<Expected<void>> RemovableMedia::close_tray(DriveName drive) {
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  co_return move_tray(*place, drive, false);
}

Task<Expected<void>> RemovableMedia::eject(DriveName drive) {
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  BB_CO_TRY(move_tray(*place, drive, true));
  co_return co_await take_out(*place, drive);
}

Task<Expected<void>> RemovableMedia::remove(DriveName drive) {
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  co_return co_await take_out(*place, drive);
}

Task<Expected<void>> RemovableMedia::insert(DriveName drive, std::string node_name) {
  MutexGuard guard = co_await graph_.lock();
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  Node* node = graph_.find_node(node_name);
  if (node == nullptr) co_return fail(fmt::format("Node '{}' not found", node_name));
  if (has_backend(*node)) co_return fail(fmt::format("Node '{}' is already in use", node_name));
  co_return put_in(*place, *node);
}

Task<Expected<NodeRef>> RemovableMedia::open(const Place& place, NewMedium medium) {
  MutexGuard guard = co_await graph_.lock();
  const Node* old = place.backend->node();
  InheritedOptions inherited{old != nullptr ? old->flags() : *place.flags};
  if (medium.read_only) inherited.flags.read_only = *medium.read_only;
  inherited.flags.auto_read_only = false;
  // Nobody hands this one over.
  inherited.flags.inactive = false;
  Graph::OpenRequest request;
  request.filename = std::move(medium.filename);
  if (medium.format) request.options.set("driver", std::move(*medium.format));
  request.inherited = inherited;
  auto opened = co_await graph_.open(std::move(request));
  if (opened) machine_.drives().warn_of_guess(**opened);
  co_return opened;
}

Task<Expected<void>> RemovableMedia::change(DriveName drive, NewMedium medium) {
  auto place = find(drive);
  if (!place) co_return fail(std::move(place).error());
  auto opened = co_await open(*place, std::move(medium));
  if (!opened) co_return fail(std::move(opened).error());
  Expected<void> done = move_tray(*place, drive, true);
  if (done) done = co_await take_out(*place, drive);

  MutexGuard guard = co_await graph_.lock();
  if (done) done = put_in(*place, **opened);
  *opened = NodeRef();
  co_await graph_.close_unreferenced();
  if (!done) co_return done;
  co_return move_tray(*place, drive, false);
}

}  // namespace blockbed
