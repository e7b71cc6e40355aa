// Byte streams and listeners: sockets, pipes, standard input and output.
//
// Contract
//  - read_some waits for at least one byte; 0 means the peer has ended its side. write_all sends
//    everything or fails.
//  - One reader and one writer at a time. shutdown() makes both of them, waiting or later, end:
//    reads with 0 or ECANCELED, writes with EPIPE or ECANCELED. The object dies after they have
//    ended.
//  - A listener hands out one stream an accept(); close() ends a waiting accept() with ECANCELED
//    and removes a unix socket's path that listen() made.
// Errors: errno. No SIGPIPE.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "block/runtime/buffers.h"
#include "block/runtime/result.h"
#include "block/runtime/task.h"

namespace blockbed {

struct UnixAddress {
  std::string path;
  bool abstract = false;
  friend bool operator==(const UnixAddress&, const UnixAddress&) = default;
};

struct InetAddress {
  std::string host;
  // Decimal or a service name; "0" lets the system choose.
  std::string port;
  std::optional<bool> ipv4, ipv6;
  // Tries ports up to and including this one.
  std::optional<uint16_t> to;
  friend bool operator==(const InetAddress&, const InetAddress&) = default;
};

// An inherited descriptor.
struct DescriptorAddress {
  int descriptor = -1;
  friend bool operator==(const DescriptorAddress&, const DescriptorAddress&) = default;
};

using SocketAddress = std::variant<UnixAddress, InetAddress, DescriptorAddress>;

// Closes a descriptor that take_descriptors() handed over and nobody wants.
void close_descriptor(int descriptor);

class Stream {
 public:
  virtual ~Stream() = default;

  virtual Task<Result<std::size_t>> read_some(std::span<std::byte> into) = 0;
  // More bytes only if they are there already, without waiting: EAGAIN when there are none. Lets a
  // reader batch.
  virtual Result<std::size_t> try_read(std::span<std::byte> into) = 0;
  virtual Task<Result<void>> write_all(IoVector data) = 0;
  virtual void shutdown() = 0;

  // Descriptors that came with what was read so far (SCM_RIGHTS); the caller owns them. Empty for
  // other streams.
  virtual std::vector<int> take_descriptors() { return {}; }
  // For TCP: TCP_NODELAY and TCP_CORK-like behaviour is the implementation's affair; write_all
  // sends at once.
  virtual SocketAddress peer() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;

  virtual Task<Result<std::unique_ptr<Stream>>> accept() = 0;
  virtual void close() = 0;
  // Where it listens now (the port that the system chose).
  virtual SocketAddress address() const = 0;
};

}  // namespace blockbed
