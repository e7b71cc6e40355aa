// What a request of an NBD client is worth, and its execution.
//
// Contract
//  - judge() says from the header alone what to do. Its order of checks and its texts are QEMU
//    7.2's: a write that is too long ends the connection (its payload would have to be skipped), a
//    wrong magic number too; everything else that is wrong costs the client no more than the
//    request.
//  - serve() executes a request that judge() let through and pushes the slot, answered, to
//    `replies`.
//  - Failures of the node become the protocol's error numbers (wire_error) with QEMU's texts.
// Bounds: reads in pieces have at most kMaxPieces; a block status reply at most kMaxStatusExtents
// extents a context. Threading: engine thread only.
#pragma once

#include <cstdint>
#include <string>

#include "block/exports/nbd/negotiation.h"
#include "block/exports/nbd/request_slot.h"
#include "block/runtime/task.h"

namespace blockbed::nbd {

class NbdExport;

// What this client and we have agreed on.
struct ClientTerms {
  bool structured = false;
  MetaContexts contexts;
  uint64_t size = 0;
  bool writable = false;
};

struct Verdict {
  enum class Kind { kServe, kRefuse, kRefuseAndClose, kDisconnect };
  Kind kind = Kind::kServe;
  // For kRefuse*: always EINVAL, with this text.
  std::string text;
};

Verdict judge(const Request& request, const ClientTerms& terms);

// From this length on a read is preceded by the question what of it are holes.
inline constexpr uint32_t kHoleQueryMinimum = uint32_t{64} << 10;
inline constexpr std::size_t kMaxPieces = 128;

Task<void> serve(NbdExport& target, const ClientTerms& terms, RequestSlot& slot,
                 ReplyQueue& replies);

}  // namespace blockbed::nbd
