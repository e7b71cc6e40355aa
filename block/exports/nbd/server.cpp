#include "block/exports/nbd/server.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/nbd_export.h"
#include "block/exports/nbd/session.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"
#include "block/graph/medium.h"
#include "block/runtime/socket_failure.h"

namespace blockbed::nbd {

namespace {

struct FoundBitmap {
  NodeRef node;
  DirtyBitmap* bitmap;
};

// A name alone is looked for along the chain of what is exported. Clients that only read would see
// marks of such a bitmap come and go; one that is named with its node was chosen for that.
Expected<FoundBitmap> find_bitmap(Node& exported, const schema::BlockDirtyBitmapOrStr& named,
                                  bool writable) {
  Node* node = nullptr;
  DirtyBitmap* bitmap = nullptr;
  if (const auto* name = std::get_if<std::string>(&named.u)) {
    for (node = &exported; node != nullptr; node = node->filter_or_cow_node()) {
      bitmap = node->dirty_bitmaps().find(*name);
      if (bitmap != nullptr) break;
    }
    if (bitmap == nullptr) return fail(fmt::format("Bitmap '{}' is not found", *name));
    // Whoever else uses it, that is why not; the marks of one that is frozen stay as they are.
    if (!writable && node->writable() && bitmap->recording() && !bitmap->frozen()) {
      return fail(fmt::format("Enabled bitmap '{}' incompatible with readonly export", *name));
    }
    BB_TRY(bitmap->check(DirtyBitmap::Accept::kReadOnly));
  } else {
    const auto& external = std::get<schema::BlockDirtyBitmap>(named.u);
    auto found = exported.graph().find_device_or_node(external.node, external.node);
    if (!found) return fail(fmt::format("Node '{}' not found", external.node));
    node = *found;
    auto there = find_dirty_bitmap(*node, external.name);
    if (!there) return fail(std::move(there).error());
    bitmap = *there;
    BB_TRY(bitmap->check(DirtyBitmap::Accept::kReadOnly));
  }
  return FoundBitmap{NodeRef(*node), bitmap};
}

}  // namespace

NbdServer::NbdServer(ExportRegistry& registry)
    : registry_(registry), env_(registry.graph().env()), room_(env_.executor()) {
  registry_.add_type(schema::BlockExportType::kNbd, *this);
}

NbdServer::~NbdServer() { BB_ASSERT(!running_ && sessions_.empty() && exports_.empty()); }

Task<Expected<void>> NbdServer::start(NbdServerSettings settings) {
  if (running_) co_return fail("NBD server already running");
  if (auto wrong = address_failure(settings.address)) co_return fail(*std::move(wrong));
  if (const auto* given = std::get_if<DescriptorAddress>(&settings.address)) {
    Result<std::unique_ptr<Listener>> listener = env_.adopt_listener(given->descriptor);
    if (!listener) co_return fail(listen_failure(settings.address, listener.error()));
    listener_ = *std::move(listener);
  } else {
    Result<std::unique_ptr<Listener>> listener = co_await env_.listen(settings.address);
    if (!listener) co_return fail(listen_failure(settings.address, listener.error()));
    listener_ = *std::move(listener);
  }
  settings_ = std::move(settings);
  if (gate_ == nullptr) gate_ = std::make_unique<Gate>(env_.executor());
  running_ = true;
  gate_->spawn(accept_clients());
  co_return {};
}

Task<Expected<void>> NbdServer::stop() {
  if (!running_) co_return fail("NBD server not running");
  running_ = false;
  listener_->close();
  room_.wake_all();
  co_await registry_.remove_all(schema::BlockExportType::kNbd);
  for (Session* session : sessions_) session->shutdown();
  co_await gate_->close();
  gate_.reset();
  listener_.reset();
  co_return {};
}

std::optional<SocketAddress> NbdServer::address() const {
  if (listener_ == nullptr) return std::nullopt;
  return listener_->address();
}

Task<void> NbdServer::accept_clients() {
  while (running_) {
    if (settings_.max_connections != 0 && sessions_.size() >= settings_.max_connections) {
      co_await room_.wait();
      continue;
    }
    Result<std::unique_ptr<Stream>> stream = co_await listener_->accept();
    if (!running_) break;
    if (stream) {
      gate_->spawn(run_session(*std::move(stream)));
    } else if (stream.error().number() == ECANCELED) {
      break;
    } else {
      // Out of descriptors or of memory, or the client has gone already: what helps is time.
      constexpr int64_t kRetryNs = 100'000'000;
      co_await env_.sleep(kRetryNs);
    }
  }
}

void NbdServer::serve(std::unique_ptr<Stream> stream) {
  if (gate_ == nullptr) gate_ = std::make_unique<Gate>(env_.executor());
  gate_->spawn(run_session(std::move(stream)));
}

Task<void> NbdServer::run_session(std::unique_ptr<Stream> stream) {
  Session session(env_, *this, std::move(stream));
  sessions_.push_back(&session);
  co_await session.run();
  std::erase(sessions_, &session);
  room_.wake_all();
}

Task<Expected<std::unique_ptr<Export>>> NbdServer::create(const schema::BlockExportOptions& options,
                                                          std::unique_ptr<Backend>& backend,
                                                          std::unique_ptr<GuestDisk> guest) {
  if (!running_) co_return fail("NBD server not running");
  const auto& nbd = std::get<schema::BlockExportOptionsNbd>(options.u);
  NbdExportSettings settings;
  // None is in use before all are known to be right: the same one may be named twice.
  std::vector<FoundBitmap> bitmaps;
  settings.name = nbd.name.value_or(options.node_name);
  settings.description = nbd.description.value_or("");
  settings.writable = options.writable.value_or(false);
  settings.allocation_depth = nbd.allocation_depth.value_or(false);
  settings.multi_conn = settings_.max_connections != 1;
  if (settings.name.size() > kMaxString)
    co_return fail(fmt::format("export name '{}' too long", settings.name));
  if (settings.description.size() > kMaxString) {
    co_return fail(fmt::format("description '{}' too long", settings.description));
  }
  if (find(settings.name))
    co_return fail(fmt::format("NBD server already has export named '{}'", settings.name));
  if (!has_medium(*backend->node())) {
    co_return fail(
        fmt::format("Failed to determine the NBD export's length: {}", strerror_text(ENOMEDIUM)));
  }
  // Clients are told a size.
  PermissionPair permissions = backend->wanted_permissions();
  permissions.shares = permissions.shares - Permission::kResize;
  BB_CO_TRY(backend->set_permissions(permissions));
  if (nbd.bitmaps) {
    for (const schema::BlockDirtyBitmapOrStr& named : *nbd.bitmaps) {
      auto found = find_bitmap(*backend->node(), named, settings.writable);
      if (!found) co_return fail(std::move(found).error());
      bitmaps.push_back(*std::move(found));
    }
  }
  for (FoundBitmap& found : bitmaps) {
    settings.bitmaps.push_back({std::move(found.node), DirtyBitmap::Use(*found.bitmap)});
  }
  co_return std::make_unique<NbdExport>(*this, options.id, std::move(backend), std::move(guest),
                                        std::move(settings), next_identity_++);
}

void NbdServer::strike(NbdExport& e) { std::erase(exports_, &e); }

std::optional<ExportFacts> NbdServer::find(std::string_view name) const {
  const auto found = std::ranges::find(
      exports_, name, [](const NbdExport* e) -> std::string_view { return e->name(); });
  if (found == exports_.end()) return std::nullopt;
  return (*found)->facts();
}

std::vector<ExportFacts> NbdServer::list() const {
  std::vector<ExportFacts> result;
  for (const NbdExport* e : exports_) result.push_back(e->facts());
  return result;
}

NbdExport* NbdServer::find_by_identity(uint64_t identity) const {
  const auto found = std::ranges::find(exports_, identity, &NbdExport::identity);
  return found == exports_.end() ? nullptr : *found;
}

}  // namespace blockbed::nbd
