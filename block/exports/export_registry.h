// ExportRegistry: all exports of one server.
//
// Contract
//  - add() takes an edge to the node (consistent-read, write when writable; the node's size is not
//    to change meanwhile), then lets the type make the export. Errors are QEMU's, in QEMU's order.
//  - Removal never waits for clients in a command that QEMU answers at once: an export with clients
//    that is removed the hard way is listed as shutting down until the last of them has gone.
//    BLOCK_EXPORT_DELETED is emitted when the export is gone and the node is free; when nobody was
//    connected, that is before remove() returns.
//  - An export that nbd-server-add made for a device goes when the device's medium goes: who
//    removes the medium of a named backend calls medium_removed() first.
// The methods take the graph lock themselves: the caller does not hold it.
// Threading: engine thread only. It dies without exports: remove_all() first.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/exports/export.h"
#include "block/graph/graph.h"
#include "block/runtime/gate.h"
#include "block/runtime/sync.h"
#include "schema/block_export.h"

namespace blockbed {

class ExportRegistry {
 public:
  explicit ExportRegistry(Graph& graph);
  ~ExportRegistry();

  Graph& graph() const { return graph_; }
  // `type` lives longer than the registry's last export.
  void add_type(schema::BlockExportType name, ExportType& type);
  // Finds an iothread object, or null; without it none exists.
  void set_iothread_lookup(std::function<IoContext(std::string_view)> find) {
    find_iothread_ = std::move(find);
  }

  // Who stands in for the guest of that device (by its id or path) works with the device's backend;
  // without it nobody can. Who takes a backend from its device calls medium_removed() first.
  void set_guests(GuestState& guest, std::function<Backend*(std::string_view)> find_device) {
    guest_ = &guest;
    find_device_ = std::move(find_device);
  }

  Task<Expected<void>> add(const schema::BlockExportOptions& options);
  // The older command: names the device or node, and turns a read-only node's export into a
  // read-only one by itself.
  Task<Expected<void>> add_nbd(const schema::NbdServerAddOptions& options);

  Task<Expected<void>> remove(std::string_view id, schema::BlockExportRemoveMode mode);
  Task<Expected<void>> remove_nbd(std::string_view id, schema::BlockExportRemoveMode mode);
  // The hard way, and waits until they are gone. Every type when none is named.
  Task<void> remove_all(std::optional<schema::BlockExportType> type = std::nullopt);
  // Waits until the exports that must go with it are gone.
  Task<void> medium_removed(const Backend& device);

  // Newest first, as query-block-exports lists them.
  std::vector<schema::BlockExportInfo> query() const;
  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    std::unique_ptr<Export> made;
    // What block-export-add gives the user, who can give it back once.
    bool shutting_down = false;
    // Goes with this device's medium; only compared, never followed.
    const Backend* device = nullptr;
    uint64_t number = 0;
  };

  Entry* find(std::string_view id);
  Task<Expected<Entry*>> make(const schema::BlockExportOptions& options);
  // The device whose guest the client will be.
  Expected<Backend*> find_guest_device(const schema::BlockExportOptions& options,
                                       const Node& node) const;
  void begin_removal(Entry& entry);
  Task<void> finish_removal(Entry& entry);
  Task<void> remove_numbered(std::vector<uint64_t> numbers);
  Task<void> wait_until_gone(std::vector<uint64_t> numbers);

  Graph& graph_;
  std::array<ExportType*, 4> types_ = {};
  std::function<IoContext(std::string_view)> find_iothread_;
  GuestState* guest_ = nullptr;
  std::function<Backend*(std::string_view)> find_device_;
  std::list<Entry> entries_;
  uint64_t next_number_ = 1;
  Gate removals_;
  WaitQueue removed_;
};

}  // namespace blockbed
