// Why a socket cannot be had, in the words that QEMU uses.
//
// Problem: Env tells an errno; people and clients expect to read which step failed (the name, the
// path, the port) and at what.
// Contract: pure functions of what was asked for and the errno. Source of the rule: QEMU 7.2.
#pragma once

#include <optional>
#include <string>

#include "block/runtime/result.h"
#include "block/runtime/stream.h"

namespace blockbed {

// The length of sun_path, the terminating zero included.
inline constexpr std::size_t kMaxUnixPath = 108;

// What is wrong with an address before anything is tried.
std::optional<std::string> address_failure(const SocketAddress& address);
std::string listen_failure(const SocketAddress& address, Errno error);
std::string connect_failure(const SocketAddress& address, Errno error);

}  // namespace blockbed
