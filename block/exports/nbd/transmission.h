// Transmission: the requests of one client and the replies to them, after the handshake.
//
// Problem: at 4 KiB a request the system calls and wakes around it cost more than the request. So
// one receive brings all the requests that are there, they are executed as they are parsed, and the
// replies that are ready together leave with one send.
//
// Contract
//  - run() returns when the client disconnects, vanishes, breaks the protocol, or its stream is
//    shut down, and all its requests have ended. Replies that can still be sent are sent first.
//  - Requests run in parallel and are answered in whatever order they end. At most kMaxRequests are
//    in flight, with at most kMaxBytes of payload between them (one of kMaxPayload always fits);
//    meanwhile nothing more is received.
//  - A client that asks for much at once does not hold up others: requests of at most kBytesATurn
//    and one more are started in a row.
//  - Payloads too long to sit in the receive buffer are received straight into the request's
//    memory.
// Who wakes whom: a request that ends wakes the sender, which takes all replies that are ready when
// its turn comes; the reader lets it go first before it waits for more. Threading: engine thread
// only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "block/exports/nbd/receive_buffer.h"
#include "block/exports/nbd/request_handler.h"
#include "block/exports/nbd/request_slot.h"
#include "block/runtime/env.h"
#include "block/runtime/gate.h"

namespace blockbed::nbd {

class NbdExport;

class Transmission {
 public:
  // QEMU's server takes 16 and needs the rest of a client's queue to wait in the socket; deeper
  // queues are common now.
  static constexpr std::size_t kMaxRequests = 64;
  // What a client may make us hold: two payloads of the largest size.
  static constexpr std::size_t kMaxBytes = 2 * std::size_t{kMaxPayload};
  // Other clients get their turn after requests with so much payload were started: what the page
  // cache has is read while they are.
  static constexpr std::size_t kBytesATurn = std::size_t{128} << 10;
  // Writes up to here are received through the receive buffer, together with what follows them.
  static constexpr uint32_t kBufferedPayload = uint32_t{32} << 10;

  // `received` holds what came after the handshake already.
  Transmission(Env& env, Stream& stream, NbdExport& target, bool structured, MetaContexts contexts,
               ReceiveBuffer& received);
  ~Transmission();

  Task<void> run();

 private:
  Task<void> receive_requests();
  Task<bool> fill(std::size_t wanted);
  Task<bool> receive_payload(std::span<std::byte> into);
  Task<bool> skip_payload(std::size_t length);
  Task<void> send_replies();
  IoVector gather(RequestSlot* batch);

  // Null: too much is in flight.
  RequestSlot* try_acquire(const Request& request);
  void release(RequestSlot& slot);

  Env& env_;
  Stream& stream_;
  NbdExport& target_;
  const ClientTerms terms_;
  ReceiveBuffer& received_;

  ReplyQueue replies_;
  Gate requests_;
  Gate sender_;
  WaitQueue slot_free_;
  std::vector<std::unique_ptr<RequestSlot>> slots_;
  std::vector<RequestSlot*> free_slots_;
  std::size_t bytes_in_flight_ = 0;
  // The stream takes no more.
  bool broken_ = false;
  // Short replies of one batch, side by side.
  static constexpr std::size_t kShortReply = 64;
  std::array<std::byte, kMaxRequests * kShortReply> short_replies_;
};

}  // namespace blockbed::nbd
