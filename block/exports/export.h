// Export: one node shown to the outside under an id.
//
// Problem: exports of every type are added, listed, cut off and removed by the same commands and
// must behave as one family; what they have in common is the id, the root of the graph they hold,
// and the way they end.
//
// Contract
//  - An export is made by its ExportType inside ExportRegistry::add and dies in the registry, after
//    end() has returned and its backend was taken out of the graph.
//  - end() refuses newcomers and cuts off the clients that are there at once (before its first
//    suspension), then waits until none of them uses the backend any more.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "block/exports/guest_disk.h"
#include "block/graph/backend.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

namespace schema {
struct BlockExportOptions;
enum class BlockExportType : uint8_t;
}  // namespace schema

class Export {
 public:
  // `guest` is null but for a client that is one.
  Export(std::string id, schema::BlockExportType type, std::unique_ptr<Backend> backend,
         std::unique_ptr<GuestDisk> guest)
      : id_(std::move(id)), type_(type), backend_(std::move(backend)), guest_(std::move(guest)) {}
  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  const std::string& id() const { return id_; }
  schema::BlockExportType type() const { return type_; }
  Backend& backend() const { return *backend_; }
  GuestDisk* guest() const { return guest_.get(); }

  // Somebody is connected: a `safe` removal is refused.
  virtual bool in_use() const = 0;
  virtual Task<void> end() = 0;

 private:
  std::string id_;
  schema::BlockExportType type_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<GuestDisk> guest_;
};

// Makes exports of one type; registered with ExportRegistry::add_type.
class ExportType {
 public:
  // `backend` holds the node already, with the permissions that `options` ask for, and refuses
  // others none yet; it is moved from on success only.
  virtual Task<Expected<std::unique_ptr<Export>>> create(const schema::BlockExportOptions& options,
                                                         std::unique_ptr<Backend>& backend,
                                                         std::unique_ptr<GuestDisk> guest) = 0;

 protected:
  ~ExportType() = default;
};

}  // namespace blockbed
