// Session: one client of the NBD server, from its greeting to its end.
//
// Contract
//  - run() does the handshake, attaches to the export that it chose, serves it (transmission.h),
//    detaches, and returns when nothing of this client is left: no request in flight, no reply
//    unsent that still could be sent.
//  - shutdown() makes run() end soon, whatever the client does; it may be called at any time while
//    run() is running.
// Threading: engine thread only.
#pragma once

#include <cstddef>
#include <memory>

#include "block/exports/nbd/negotiation.h"
#include "block/exports/nbd/receive_buffer.h"
#include "block/runtime/env.h"
#include "block/runtime/stream.h"

namespace blockbed::nbd {

class NbdServer;

class Session {
 public:
  Session(Env& env, NbdServer& server, std::unique_ptr<Stream> stream);

  Task<void> run();
  void shutdown() { stream_->shutdown(); }

 private:
  Task<bool> negotiate(Negotiation& negotiation);
  Task<void> cut_off_when_late(Timer& timer);

  Env& env_;
  NbdServer& server_;
  std::unique_ptr<Stream> stream_;
  ReceiveBuffer received_;
};

}  // namespace blockbed::nbd
