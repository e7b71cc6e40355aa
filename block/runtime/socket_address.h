// SocketAddress to and from the kernel's form.
//
// Contract: resolving a name may wait for a name server and belongs on a worker; a numeric host
// with a numeric port never waits. Units: none. Errors: errno, see production_stream.h.
// Threading: any thread.
#pragma once

#include <sys/socket.h>

#include <vector>

#include "block/runtime/result.h"
#include "block/runtime/stream.h"

namespace blockbed {

struct KernelAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;

  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  uint16_t port() const;
  void set_port(uint16_t port);
  bool wildcard() const;
};

// ENAMETOOLONG when the path does not fit, EINVAL when it is empty.
Result<KernelAddress> kernel_address(const UnixAddress& address);

enum class Resolve { kNumericOnly, kNames };
enum class Purpose { kListen, kConnect };
// In the resolver's order, at most `limit`. EAGAIN: only a name server knows (with kNumericOnly).
Result<std::vector<KernelAddress>> resolve(const InetAddress& address, Purpose purpose, Resolve how,
                                           std::size_t limit);

SocketAddress socket_address(const KernelAddress& address);

}  // namespace blockbed
