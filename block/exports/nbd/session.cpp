#include "block/exports/nbd/session.h"

#include "block/exports/nbd/nbd_export.h"
#include "block/exports/nbd/server.h"
#include "block/exports/nbd/transmission.h"
#include "block/runtime/gate.h"

namespace blockbed::nbd {

Session::Session(Env& env, NbdServer& server, std::unique_ptr<Stream> stream)
    : env_(env), server_(server), stream_(std::move(stream)) {}

Task<void> Session::cut_off_when_late(Timer& timer) {
  if (co_await timer.wait_until(env_.now() + NbdServer::kHandshakeNs)) stream_->shutdown();
}

// True when the client chose an export; its answer is then still in the negotiation's output.
Task<bool> Session::negotiate(Negotiation& negotiation) {
  const auto greeting = Negotiation::greeting();
  negotiation.output().assign(greeting.begin(), greeting.end());
  for (;;) {
    received_.take(negotiation.consume(received_.bytes()));
    if (negotiation.phase() == Negotiation::Phase::kTransmission) co_return true;
    if (!negotiation.output().empty()) {
      const Result<void> sent =
          co_await stream_->write_all(IoVector(std::span<const std::byte>(negotiation.output())));
      negotiation.output().clear();
      if (!sent) co_return false;
      if (received_.size() > 0) continue;
    }
    if (negotiation.phase() == Negotiation::Phase::kClose) co_return false;
    const Result<std::size_t> count =
        co_await stream_->read_some(received_.free_space(received_.size() + 1));
    if (!count || *count == 0) co_return false;
    received_.received(*count);
  }
}

Task<void> Session::run() {
  auto negotiation = std::make_unique<Negotiation>(server_);
  Gate gate(env_.executor());
  const std::unique_ptr<Timer> timer = env_.make_timer();
  gate.spawn(cut_off_when_late(*timer));
  const bool chosen = co_await negotiate(*negotiation);

  // No suspension since the export was found by its name.
  NbdExport* const target =
      chosen ? server_.find_by_identity(negotiation->selected().identity) : nullptr;
  if (target != nullptr) target->attach(*this);
  timer->cancel();
  co_await gate.close();
  if (target != nullptr) {
    const Result<void> sent =
        co_await stream_->write_all(IoVector(std::span<const std::byte>(negotiation->output())));
    Transmission transmission(env_, *stream_, *target, negotiation->structured_replies(),
                              negotiation->contexts(), received_);
    negotiation.reset();
    if (sent) co_await transmission.run();
    target->detach(*this);
  }
  stream_->shutdown();
}

}  // namespace blockbed::nbd
