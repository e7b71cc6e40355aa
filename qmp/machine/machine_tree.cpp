// The machine's part of the object tree, and what clients may change there.
#include <fmt/format.h>

#include <algorithm>

#include "block/graph/drain.h"
#include "block/graph/graph_change.h"
#include "qmp/machine/device.h"

namespace blockbed {

Task<Expected<void>> Machine::change_drive(std::string path, json::Value name) {
  if (!name.is_string()) co_return fail("Invalid parameter type for 'drive', expected: string");
  MutexGuard guard = co_await graph_.lock();
  Device* const device = find(path);
  if (device == nullptr || device->backend == nullptr) {
    co_return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", path));
  }
  // Never the name of a drive: that one has its own root.
  Node* const node = graph_.find_node(name.as_string());
  if (node == nullptr) {
    co_return fail(fmt::format("Cannot find device='' nor node-name='{}'", name.as_string()));
  }
  if (node->context() != context_of(*device)) {
    co_return fail("Different aio context is not supported for new node");
  }
  Backend& backend = *device->backend;
  if (backend.node() == nullptr) co_return backend.insert(*node);
  {
    DrainedSection drained = co_await drain({backend.node(), node});
    GraphChange change(graph_);
    BB_CO_TRY(change.replace_node(backend.edge(), *node));
    BB_CO_TRY(change.check());
    change.commit();
  }
  co_await graph_.close_unreferenced();
  co_return Expected<void>();
}

std::string Machine::drive_name(const Device& device) {
  const Backend& backend = *device.backend;
  if (!backend.name().empty() || backend.node() == nullptr) return backend.name();
  return backend.node()->name();
}

std::vector<QomProperty> Machine::error_policies(const Device& device) {
  if (device.model->kind == ModelKind::kFloppy) return {};
  std::vector<QomProperty> policies;
  for (const std::string_view name : {"rerror", "werror"}) {
    std::string value = "auto";
    for (const auto& [key, given] : device.properties) {
      if (key == name) value = given;
    }
    // Of virtio-blk the part that is the disk has no name.
    const std::string owner =
        device.model->kind == ModelKind::kVirtioBlk ? "anonymous device (type 'virtio-blk-device')"
        : device.id.empty() ? fmt::format("anonymous device (type '{}')", device.model->name)
                            : fmt::format("device '{}' (type '{}')", device.id, device.model->name);
    policies.push_back(
        {std::string(name), "BlockdevOnError",
         [value]() -> Expected<json::Value> { return json::Value(value); },
         [name, owner](json::Value) -> Task<Expected<void>> {
           co_return fail(fmt::format("Attempt to set property '{}' on {} after it was realized",
                                      name, owner));
         }});
  }
  return policies;
}

void Machine::describe(QomNode& root) {
  QomNode& machine = root.child("machine", fmt::format("{}-machine", type_.name));
  QomNode& unattached = machine.child("unattached");
  for (uint64_t number = 0; number < processor_count(); ++number) {
    const std::string path = processor_path(number);
    unattached.child(std::string_view(path).substr(path.rfind('/') + 1), kProcessorType);
  }
  machine.child("peripheral-anon");
  machine.child("peripheral");
  for (const auto& device : devices_) {
    const std::size_t slash = device->path.rfind('/');
    QomNode& container = machine.child(std::string_view(device->path).substr(9, slash - 9));
    QomNode& node = container.child(device->path.substr(slash + 1), device->model->name);
    for (const auto& [key, value] : device->properties) {
      node.properties.push_back(
          {key, "str", [value]() -> Expected<json::Value> { return json::Value(value); }, nullptr});
    }
    if (device->backend != nullptr) {
      std::vector<QomProperty> of_disk = error_policies(*device);
      of_disk.push_back(
          {"drive", "str",
           [name = drive_name(*device)]() -> Expected<json::Value> { return json::Value(name); },
           [this, path = device->path](json::Value value) {
             return change_drive(path, std::move(value));
           }});
      std::erase_if(node.properties, [&](const auto& property) {
        return std::ranges::find(of_disk, property.name, &QomProperty::name) != of_disk.end();
      });
      node.properties.insert(node.properties.end(), of_disk.begin(), of_disk.end());
      if (device->model->kind == ModelKind::kVirtioBlk) {
        node.child("virtio-backend", "virtio-blk-device").properties = std::move(of_disk);
      }
    }
  }
}

}  // namespace blockbed
