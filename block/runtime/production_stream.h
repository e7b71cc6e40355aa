// ProductionStream and ProductionListener: sockets, pipes and terminals of this system.
//
// Contract (beyond stream.h)
//  - read_some and try_read make one system call when data is there, write_all one when the kernel
//    takes everything, and one more for a short range before a long one; nothing is allocated then.
//  - TCP_NODELAY is on; keep-alive is left to the system.
//  - Descriptors received on a unix socket get close-on-exec. At most kMaxDescriptors wait for
//    take_descriptors(); more are closed.
//  - Descriptors 0 to 2 are never closed, since a later open() would take their place; what
//    adopting changed in the file status flags of any foreign descriptor is undone at the end.
//  - listen() on a name with several addresses listens on all that can be bound, on one port.
//    An existing socket path is replaced, as QEMU does.
//  - accept() waits kAcceptPause when the process or the system has no descriptor left, instead of
//    failing in a loop.
// Errors: errno. Names that do not resolve: EADDRNOTAVAIL, or EIO when the resolver says no more.
// Threading: engine thread only.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block/runtime/io_services.h"
#include "block/runtime/stream.h"

struct msghdr;

namespace blockbed {

class ProductionStream final : public Stream {
 public:
  // What QEMU's character devices accept with one message.
  static constexpr std::size_t kMaxDescriptors = 16;

  enum class Origin { kOurs, kForeign };

  // Takes the descriptors over; they may be the same. EBADF when one is none.
  static Result<std::unique_ptr<Stream>> adopt(EventLoop& loop, int read_descriptor,
                                               int write_descriptor, Origin origin);
  ~ProductionStream() override;

  Task<Result<std::size_t>> read_some(std::span<std::byte> into) override;
  Result<std::size_t> try_read(std::span<std::byte> into) override;
  Task<Result<void>> write_all(IoVector data) override;
  void shutdown() override;
  std::vector<int> take_descriptors() override;
  SocketAddress peer() const override;

 private:
  enum class Kind { kSocket, kUnixSocket, kOther };
  struct End {
    int descriptor;
    // As it was before we made it non-blocking; -1 when nothing is to be undone.
    int flags = -1;
  };

  ProductionStream(EventLoop& loop, End reader, End writer, Kind kind);
  ssize_t receive(std::span<std::byte> into);
  ssize_t send(const iovec* ranges, std::size_t count) const;
  void keep_descriptors(const ::msghdr& message);
  DescriptorWatch& write_watch() { return other_watch_ ? *other_watch_ : watch_; }

  const End reader_, writer_;
  const Kind kind_;
  DescriptorWatch watch_;
  // Only when reader and writer differ.
  std::unique_ptr<DescriptorWatch> other_watch_;
  bool shut_ = false;
  std::vector<int> descriptors_;
};

class ProductionListener final : public Listener {
 public:
  static constexpr int64_t kAcceptPause = 100'000'000;
  // Addresses that one name may have, and listening sockets of one listener.
  static constexpr std::size_t kMaxAddresses = 64;

  static Task<Result<std::unique_ptr<Listener>>> listen(IoServices& services,
                                                        SocketAddress address);
  static Result<std::unique_ptr<Listener>> adopt(EventLoop& loop, int descriptor);
  ~ProductionListener() override;

  Task<Result<std::unique_ptr<Stream>>> accept() override;
  void close() override;
  SocketAddress address() const override { return address_; }

 private:
  ProductionListener(EventLoop& loop, std::vector<int> sockets, int waiting, SocketAddress address,
                     std::string path);
  Result<int> accept_now();

  EventLoop& loop_;
  std::vector<int> sockets_;
  // The socket, or an epoll descriptor over all of them.
  const int waiting_;
  const SocketAddress address_;
  // To remove at close().
  std::string path_;
  DescriptorWatch watch_;
  Alarm pause_;
  bool accepting_ = false;
  bool closed_ = false;
};

Task<Result<std::unique_ptr<Stream>>> connect_stream(IoServices& services, SocketAddress address);

}  // namespace blockbed
