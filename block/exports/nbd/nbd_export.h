// NbdExport: one export of the NBD server: what clients are told about it, who is connected, and
// the way to its node.
//
// Contract
//  - Requests go through backend(), or that of a guest's device; status() asks for the allocation
//    of a range and waits while the node is drained, as the backend's own requests do.
//  - A session attaches when its handshake chose the export and detaches at its end; end() shuts
//    all of them down and waits for that.
// Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/exports/export.h"
#include "block/exports/nbd/negotiation.h"
#include "block/graph/chain.h"
#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"
#include "block/runtime/sync.h"

namespace blockbed::nbd {

class NbdServer;
class Session;

// Its marks do not change but by the clients' own writes, and it stays where it is, as long as it
// is exported.
struct ExportedBitmap {
  NodeRef node;
  DirtyBitmap::Use bitmap;
};

struct NbdExportSettings {
  std::string name;
  std::string description;
  bool writable = false;
  bool allocation_depth = false;
  std::vector<ExportedBitmap> bitmaps;
  // Several connections see one another's writes: always true here, but a server for one client
  // does not say so.
  bool multi_conn = true;
};

class NbdExport final : public Export, private BackendUser {
 public:
  NbdExport(NbdServer& server, std::string id, std::unique_ptr<Backend> backend,
            std::unique_ptr<GuestDisk> guest, NbdExportSettings settings, uint64_t identity);
  ~NbdExport() override;

  const std::string& name() const { return settings_.name; }
  const NbdExportSettings& settings() const { return settings_; }
  uint64_t identity() const { return identity_; }
  uint64_t size() const { return size_; }
  ExportFacts facts() const;

  void attach(Session& session);
  void detach(Session& session);

  bool in_use() const override { return !sessions_.empty(); }
  Task<void> end() override;

  // --- clients' requests, of a guest's device or the export's own
  Task<Result<void>> read(uint64_t offset, IoVector buffers, RequestFlags flags = {}) {
    return guest() ? guest()->read(offset, std::move(buffers), flags)
                   : backend().read(offset, std::move(buffers), flags);
  }
  Task<Result<void>> write(uint64_t offset, IoVector buffers, RequestFlags flags) {
    return guest() ? guest()->write(offset, std::move(buffers), flags)
                   : backend().write(offset, std::move(buffers), flags);
  }
  Task<Result<void>> zero(uint64_t offset, uint64_t length, RequestFlags flags) {
    return guest() ? guest()->zero(offset, length, flags) : backend().zero(offset, length, flags);
  }
  Task<Result<void>> discard(uint64_t offset, uint64_t length) {
    return guest() ? guest()->discard(offset, length) : backend().discard(offset, length);
  }
  Task<Result<void>> flush() { return guest() ? guest()->flush() : backend().flush(); }
  // What is read there and from which layer of the chain.
  Task<Result<ChainStatus>> status(uint64_t offset, uint64_t length, bool want_zero);

 private:
  void drained_end() override { resumed_.wake_all(); }
  bool drained_poll() override { return status_in_flight_ > 0; }

  NbdServer& server_;
  NbdExportSettings settings_;
  const uint64_t identity_;
  const uint64_t size_;
  std::vector<Session*> sessions_;
  WaitQueue detached_;
  WaitQueue resumed_;
  std::size_t status_in_flight_ = 0;
};

}  // namespace blockbed::nbd
