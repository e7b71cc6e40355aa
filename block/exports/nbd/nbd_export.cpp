#include "block/exports/nbd/nbd_export.h"

#include <algorithm>

#include "block/exports/nbd/server.h"
#include "block/exports/nbd/session.h"
#include "schema/block_export.h"

namespace blockbed::nbd {

NbdExport::NbdExport(NbdServer& server, std::string id, std::unique_ptr<Backend> backend,
                     std::unique_ptr<GuestDisk> guest, NbdExportSettings settings,
                     uint64_t identity)
    : Export(std::move(id), schema::BlockExportType::kNbd, std::move(backend), std::move(guest)),
      server_(server),
      settings_(std::move(settings)),
      identity_(identity),
      size_(this->backend().length()),
      detached_(this->backend().graph().executor()),
      resumed_(this->backend().graph().executor()) {
  this->backend().set_user(this);
  server_.enlist(*this);
}

NbdExport::~NbdExport() {
  BB_ASSERT(sessions_.empty() && status_in_flight_ == 0);
  backend().set_user(nullptr);
}

ExportFacts NbdExport::facts() const {
  ExportFacts facts;
  facts.identity = identity_;
  facts.name = settings_.name;
  facts.description = settings_.description;
  facts.size = size_;
  facts.flags = kHasFlags | kSendFlush | kSendFua | kSendCache;
  facts.flags |= settings_.writable ? kSendTrim | kSendWriteZeroes | kSendFastZero : kReadOnly;
  if (settings_.multi_conn) facts.flags |= kCanMultiConn;
  facts.allocation_depth = settings_.allocation_depth;
  for (const ExportedBitmap& e : settings_.bitmaps) facts.bitmaps.push_back(e.bitmap->name());
  if (const Node* node = backend().node(); node != nullptr) {
    const BlockLimits& limits = node->limits();
    facts.minimum_block = std::clamp<uint32_t>(limits.request_alignment, 1, kMaxPayload);
    if (limits.max_transfer > 0 && limits.max_transfer < kMaxPayload) {
      facts.maximum_block =
          std::max(static_cast<uint32_t>(limits.max_transfer), facts.minimum_block);
    }
  }
  return facts;
}

void NbdExport::attach(Session& session) { sessions_.push_back(&session); }

void NbdExport::detach(Session& session) {
  std::erase(sessions_, &session);
  if (sessions_.empty()) detached_.wake_all();
}

Task<void> NbdExport::end() {
  server_.strike(*this);
  if (guest() != nullptr) guest()->cut_off();
  for (Session* session : sessions_) session->shutdown();
  while (!sessions_.empty()) co_await detached_.wait();
  // Before their nodes may go.
  settings_.bitmaps.clear();
}

Task<Result<ChainStatus>> NbdExport::status(uint64_t offset, uint64_t length, bool want_zero) {
  while (backend().quiesced()) co_await resumed_.wait();
  Node* node = backend().node();
  if (node == nullptr) co_return io_error(ENOMEDIUM);
  ++status_in_flight_;
  Result<ChainStatus> result =
      co_await chain_status(*node, nullptr, false, offset, length, want_zero);
  if (--status_in_flight_ == 0) backend().graph().drain_progress();
  co_return result;
}

}  // namespace blockbed::nbd
