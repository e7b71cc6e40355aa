// Where a monitor's clients come from: a socket that listens, a socket that connects, an inherited
// descriptor, a pair of descriptors such as standard input and output.
//
// Contract
//  - open() binds, connects or adopts, so that a wrong address is an error at start-up; with `wait`
//    it also waits for the first client, as QEMU's start-up does. Errors are GenericError in QEMU's
//    words.
//  - next() gives the stream of the next client, one at a time: who connects meanwhile waits in the
//    kernel's queue. It fails with ENOTCONN when no client can come any more (standard input has
//    ended, a connection without `reconnect` is over) and with ECANCELED after close().
//  - close() ends a waiting next() and removes the path of a unix socket that open() made.
// Threading: engine thread. close() before destruction, and next() must have ended.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/runtime/env.h"
#include "block/runtime/stream.h"
#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

struct EndpointOptions {
  // Absent: a pair of descriptors, which stay their owner's.
  std::optional<SocketAddress> address;
  int input = 0;
  int output = 1;
  // What query-chardev says of the pair.
  std::string description = "stdio";
  bool server = false;
  // For a server: open() returns after the first client has come.
  bool wait = true;
  // For a client: try again this long after a connection failed or ended; 0 is never.
  int reconnect_seconds = 0;
};

class Endpoint {
 public:
  Endpoint(Env& env, EndpointOptions options);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // In two steps for a server with `wait`: whoever starts it says "waiting for connection" between
  // them.
  Task<Expected<void>> open();
  bool must_wait() const { return options_.server && options_.wait && options_.address; }
  Task<Expected<void>> wait_for_first();

  Task<Result<std::unique_ptr<Stream>>> next();
  void close();

  bool is_stdio() const { return !options_.address && options_.input == 0; }
  // As query-chardev shows it: "unix:/p,server=on", "disconnected:tcp:127.0.0.1:5,server=on",
  // "stdio".
  std::string description() const;
  // Of a server.
  std::optional<SocketAddress> listens_at() const;
  // The client that is served, and none after it.
  void set_peer(std::optional<SocketAddress> peer) { peer_ = std::move(peer); }
  // With `reconnect`: why the first attempt failed, if it did.
  const std::string& first_failure() const { return first_failure_; }

 private:
  Task<Result<std::unique_ptr<Stream>>> connect_again();

  Env& env_;
  EndpointOptions options_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Stream> first_;
  std::unique_ptr<Timer> timer_;
  std::optional<SocketAddress> peer_;
  std::string first_failure_;
  bool closed_ = false;
};

}  // namespace blockbed
