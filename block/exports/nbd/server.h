// NbdServer: listens, takes clients in, and knows the NBD exports by name.
//
// Problem: one server a process, started and stopped by commands, with exports that come and go
// while clients are connected, and with clients that never say a word.
//
// Contract
//  - start() fails with QEMU's text when it runs already or cannot listen. stop() closes the
//    listener, removes all NBD exports, cuts the clients that had none yet, and waits for all of
//    it; BLOCK_EXPORT_DELETED events come before it returns.
//  - No more than max_connections clients are served at a time; others wait in the listener's
//    queue. A client that has not finished its handshake after kHandshakeNs is cut off.
//  - serve() takes a connected stream as if it had been accepted, whether the server listens or
//    not.
// Source of the rules: QEMU 7.2.22, which caps connections at 100 unless told otherwise and allows
// ten seconds for a handshake (its answer to CVE-2024-7409). Threading: engine thread only. It dies
// stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/exports/export.h"
#include "block/exports/nbd/negotiation.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"
#include "block/runtime/sync.h"
#include "qmp/schema/error.h"

namespace blockbed {
class ExportRegistry;
}

namespace blockbed::nbd {

class NbdExport;
class Session;

struct NbdServerSettings {
  SocketAddress address;
  // 0 is unlimited.
  uint32_t max_connections = 100;

  NbdServerSettings() = default;
};

class NbdServer final : public ExportType, public ExportCatalog {
 public:
  static constexpr int64_t kHandshakeNs = 10'000'000'000;

  // Registers itself as the type `nbd`.
  explicit NbdServer(ExportRegistry& registry);
  ~NbdServer();

  bool running() const { return running_; }
  Task<Expected<void>> start(NbdServerSettings settings);
  Task<Expected<void>> stop();
  void serve(std::unique_ptr<Stream> stream);
  // Where it listens now.
  std::optional<SocketAddress> address() const;
  std::size_t connections() const { return sessions_.size(); }

  // --- ExportType
  Task<Expected<std::unique_ptr<Export>>> create(const schema::BlockExportOptions& options,
                                                 std::unique_ptr<Backend>& backend,
                                                 std::unique_ptr<GuestDisk> guest) override;

  // --- ExportCatalog
  std::optional<ExportFacts> find(std::string_view name) const override;
  std::vector<ExportFacts> list() const override;

  // --- for exports and sessions
  void enlist(NbdExport& e) { exports_.push_back(&e); }
  // Clients no longer find it.
  void strike(NbdExport& e);
  NbdExport* find_by_identity(uint64_t identity) const;

 private:
  Task<void> accept_clients();
  Task<void> run_session(std::unique_ptr<Stream> stream);

  ExportRegistry& registry_;
  Env& env_;
  bool running_ = false;
  NbdServerSettings settings_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Gate> gate_;
  // Room below max_connections, or a reason to stop waiting for it.
  WaitQueue room_;
  std::vector<Session*> sessions_;
  std::vector<NbdExport*> exports_;
  uint64_t next_identity_ = 1;
};

}  // namespace blockbed::nbd
