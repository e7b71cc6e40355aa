// Sending what a client is still owed before its stream is shut down.
//
// Contract: waits until the queue was sent, but no longer than `limit_ns`; then shuts the stream
// down, which ends its reader and its writer. A client that does not read cannot hold up the end of
// the server.
#pragma once

#include <cstdint>

#include "block/runtime/env.h"
#include "qmp/monitor/output_queue.h"

namespace blockbed {

Task<void> send_and_shut_down(Env& env, OutputQueue& output, Stream& stream, int64_t limit_ns);

}  // namespace blockbed
