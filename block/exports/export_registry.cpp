#include "block/exports/export_registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/activation.h"
#include "block/graph/graph_change.h"
#include "block/graph/kept_places.h"
#include "block/runtime/event_sink.h"

namespace blockbed {

namespace {

// QEMU's rule for ids of everything that users name: a letter first, then letters, digits, '-',
// '.', '_'.
bool well_formed_id(std::string_view id) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return !id.empty() && letter(id.front()) && std::ranges::all_of(id, [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

ExportRegistry::ExportRegistry(Graph& graph)
    : graph_(graph), removals_(graph.executor()), removed_(graph.executor()) {}

ExportRegistry::~ExportRegistry() { BB_ASSERT(entries_.empty()); }

void ExportRegistry::add_type(schema::BlockExportType name, ExportType& type) {
  types_.at(static_cast<std::size_t>(name)) = &type;
}

ExportRegistry::Entry* ExportRegistry::find(std::string_view id) {
  const auto found = std::ranges::find(
      entries_, id, [](const Entry& e) -> std::string_view { return e.made->id(); });
  return found == entries_.end() ? nullptr : &*found;
}

Expected<Backend*> ExportRegistry::find_guest_device(const schema::BlockExportOptions& options,
                                                     const Node& node) const {
  const std::string& id = *options.x_guest_device;
  Backend* device = find_device_ ? find_device_(id) : nullptr;
  if (device == nullptr) {
    return fail(ErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", id));
  }
  if (device->node() != &node) {
    return fail(fmt::format("Device '{}' does not use node '{}'", id, node.name()));
  }
  if (options.writable.value_or(false) &&
      !device->wanted_permissions().needs.has(Permission::kWrite)) {
    return fail(fmt::format("Device '{}' does not write", id));
  }
  return device;
}

Task<Expected<ExportRegistry::Entry*>> ExportRegistry::make(
    const schema::BlockExportOptions& options) {
  if (!well_formed_id(options.id)) co_return fail("Invalid block export id");
  if (find(options.id) != nullptr)
    co_return fail(fmt::format("Block export id '{}' is already in use", options.id));
  ExportType* type = types_.at(static_cast<std::size_t>(options.type));
  MutexGuard guard = co_await graph_.lock();
  const Expected<Node*> node = graph_.find_device_or_node(std::nullopt, options.node_name);
  if (!node) co_return fail(node.error());
  if (type == nullptr) {
    co_return fail(fmt::format("No driver found for the requested export type '{}'",
                               schema::name(options.type)));
  }
  const bool fixed = options.fixed_iothread.value_or(false);
  KeptPlaces places;
  if (options.iothread) {
    IoContext wanted = find_iothread_ ? find_iothread_(*options.iothread) : nullptr;
    if (wanted == nullptr) {
      co_return fail(fmt::format("iothread \"{}\" not found", *options.iothread));
    }
    places.add(**node);
    // Without `fixed` it is a wish.
    const Expected<void> moved = move_to_context(**node, std::move(wanted));
    if (!moved && fixed) co_return fail(moved.error());
  }
  // Who moves a guest writes its disks through exports before it arrives.
  BB_CO_TRY(co_await activate(**node));
  const bool writable = options.writable.value_or(false);
  if (writable && !(*node)->writable()) co_return fail("Cannot export read-only node as writable");

  Backend* device = nullptr;
  if (options.x_guest_device) {
    const Expected<Backend*> found = find_guest_device(options, **node);
    if (!found) co_return fail(found.error());
    device = *found;
  }

  PermissionPair permissions;
  // What a guest needs its device has.
  if (device == nullptr) {
    permissions.needs = Permission::kConsistentRead;
    if (writable) permissions.needs |= Permission::kWrite;
  }
  auto backend = std::make_unique<Backend>(graph_, "", permissions);
  backend->set_write_cache(!options.writethrough.value_or(false));
  BB_CO_TRY(backend->insert(**node));
  if (fixed) BB_CO_TRY(backend->bind((*node)->context()));

  std::unique_ptr<GuestDisk> guest;
  if (device != nullptr) guest = std::make_unique<GuestDisk>(*device, *guest_);
  Expected<std::unique_ptr<Export>> made =
      co_await type->create(options, backend, std::move(guest));
  if (!made) {
    co_await backend->release();
    places.put_back();
    co_await graph_.close_unreferenced();
    co_return fail(std::move(made).error());
  }
  places.keep();
  Entry& entry = entries_.emplace_back();
  entry.made = *std::move(made);
  entry.device = device;
  entry.number = next_number_++;
  co_return &entry;
}

Task<Expected<void>> ExportRegistry::add(const schema::BlockExportOptions& options) {
  BB_CO_TRY(co_await make(options));
  co_return {};
}

Task<Expected<void>> ExportRegistry::add_nbd(const schema::NbdServerAddOptions& given) {
  // One name for both, as the command has it.
  const Expected<Node*> node = graph_.find_device_or_node(given.device, given.device);
  if (!node) co_return fail(node.error());

  schema::BlockExportOptionsNbd nbd;
  nbd.name = given.name.value_or(given.device);
  nbd.description = given.description;
  if (given.bitmap) nbd.bitmaps.emplace(1).front().u = *given.bitmap;

  schema::BlockExportOptions options;
  options.type = schema::BlockExportType::kNbd;
  options.id = *nbd.name;
  options.node_name = (*node)->name();
  options.writable = given.writable.value_or(false) && !(*node)->flags().read_only;
  options.u = std::move(nbd);

  Expected<Entry*> entry = co_await make(options);
  if (!entry) co_return fail(std::move(entry).error());
  (*entry)->device = graph_.find_backend(given.device);
  co_return {};
}

Task<Expected<void>> ExportRegistry::remove(std::string_view id,
                                            schema::BlockExportRemoveMode mode) {
  Entry* entry = find(id);
  if (entry == nullptr) co_return fail(fmt::format("Export '{}' is not found", id));
  if (entry->shutting_down) co_return fail(fmt::format("Export '{}' is already shutting down", id));
  const bool in_use = entry->made->in_use();
  if (in_use && mode == schema::BlockExportRemoveMode::kSafe) {
    co_return fail(fmt::format("export '{}' still in use", id));
  }
  const uint64_t number = entry->number;
  begin_removal(*entry);
  if (!in_use) co_await wait_until_gone(std::vector<uint64_t>(1, number));
  co_return {};
}

Task<Expected<void>> ExportRegistry::remove_nbd(std::string_view id,
                                                schema::BlockExportRemoveMode mode) {
  const Entry* entry = find(id);
  if (entry != nullptr && entry->made->type() != schema::BlockExportType::kNbd) {
    co_return fail(fmt::format("Block export '{}' is not an NBD export", id));
  }
  co_return co_await remove(id, mode);
}

Task<void> ExportRegistry::remove_all(std::optional<schema::BlockExportType> type) {
  std::vector<uint64_t> numbers;
  for (const Entry& entry : entries_) {
    if (!type || entry.made->type() == *type) numbers.push_back(entry.number);
  }
  co_await remove_numbered(std::move(numbers));
}

Task<void> ExportRegistry::medium_removed(const Backend& device) {
  std::vector<uint64_t> numbers;
  for (const Entry& entry : entries_) {
    if (entry.device == &device) numbers.push_back(entry.number);
  }
  co_await remove_numbered(std::move(numbers));
}

Task<void> ExportRegistry::remove_numbered(std::vector<uint64_t> numbers) {
  // An idle export may be gone when begin_removal returns, so each is looked up again.
  for (const uint64_t number : numbers) {
    const auto still = std::ranges::find(entries_, number, &Entry::number);
    if (still != entries_.end()) begin_removal(*still);
  }
  co_await wait_until_gone(std::move(numbers));
}

void ExportRegistry::begin_removal(Entry& entry) {
  if (entry.shutting_down) return;
  entry.shutting_down = true;
  removals_.spawn(finish_removal(entry));
}

Task<void> ExportRegistry::finish_removal(Entry& entry) {
  co_await entry.made->end();
  {
    MutexGuard guard = co_await graph_.lock();
    co_await entry.made->backend().release();
    co_await graph_.close_unreferenced();
  }
  schema::events::BlockExportDeleted event;
  event.id = entry.made->id();
  const uint64_t number = entry.number;
  std::erase_if(entries_, [number](const Entry& e) { return e.number == number; });
  graph_.events().emit(event);
  removed_.wake_all();
}

Task<void> ExportRegistry::wait_until_gone(std::vector<uint64_t> numbers) {
  const auto gone = [this, &numbers] {
    return std::ranges::none_of(
        entries_, [&](const Entry& e) { return std::ranges::count(numbers, e.number) > 0; });
  };
  while (!gone()) co_await removed_.wait();
}

std::vector<schema::BlockExportInfo> ExportRegistry::query() const {
  std::vector<schema::BlockExportInfo> result;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    schema::BlockExportInfo& info = result.emplace_back();
    info.id = entry->made->id();
    info.type = entry->made->type();
    // Empty when the node has gone already.
    const Node* node = entry->made->backend().node();
    if (node != nullptr) info.node_name = node->name();
    info.shutting_down = entry->shutting_down;
  }
  return result;
}

}  // namespace blockbed
