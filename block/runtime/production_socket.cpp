// Listening and connecting: how a SocketAddress becomes a Listener or a Stream.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/production_stream.h"
#include "block/runtime/socket_address.h"

namespace blockbed {

namespace {

// How often port 0 is tried again when the system's choice is taken on another address.
constexpr int kPortTries = 16;

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int get() const { return descriptor_; }
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

Result<Socket> make_socket(int family) {
  const int descriptor = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return io_error(errno);
  return Socket(descriptor);
}

KernelAddress local_address(int descriptor) {
  KernelAddress name;
  name.length = sizeof name.storage;
  ::getsockname(descriptor, name.get(), &name.length);
  return name;
}

Result<Socket> listen_at(const KernelAddress& address, bool only_v6) {
  Result<Socket> made = make_socket(address.family());
  if (!made) return made;
  if (address.family() != AF_UNIX) {
    const int on = 1;
    ::setsockopt(made->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address.family() == AF_INET6) {
      const int only = only_v6 ? 1 : 0;
      ::setsockopt(made->get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
  }
  if (::bind(made->get(), address.get(), address.length) != 0) return io_error(errno);
  // Two sockets that may reuse an address can both be bound; only one can listen.
  if (::listen(made->get(), SOMAXCONN) != 0) return io_error(errno);
  return made;
}

// All addresses on one port: the one asked for, or with 0 the one that the first address gets.
// EADDRINUSE when any of them is taken; other failures of an address (no IPv6 here) leave it out.
Result<std::vector<int>> listen_on_port(std::vector<KernelAddress>& addresses, uint16_t port,
                                        bool only_v6) {
  std::vector<Socket> sockets;
  int failure = EADDRNOTAVAIL;
  for (KernelAddress& address : addresses) {
    address.set_port(port);
    Result<Socket> socket = listen_at(address, only_v6);
    if (!socket) {
      failure = socket.error().number();
      if (failure == EADDRINUSE) return io_error(failure);
      continue;
    }
    if (port == 0) port = local_address(socket->get()).port();
    sockets.push_back(std::move(*socket));
  }
  if (sockets.empty()) return io_error(failure);
  std::vector<int> result;
  for (Socket& socket : sockets) result.push_back(socket.release());
  return result;
}

Task<Result<std::vector<KernelAddress>>> resolve_somewhere(IoServices& services,
                                                           const InetAddress& address,
                                                           Purpose purpose) {
  constexpr std::size_t kLimit = ProductionListener::kMaxAddresses;
  Result<std::vector<KernelAddress>> found =
      resolve(address, purpose, Resolve::kNumericOnly, kLimit);
  if (!found && found.error().number() == EAGAIN) {
    found = co_await services.pool.run(
        [&address, purpose] { return resolve(address, purpose, Resolve::kNames, kLimit); });
  }
  co_return found;
}

Task<Result<std::vector<int>>> listen_inet(IoServices& services, const InetAddress& wanted) {
  Result<std::vector<KernelAddress>> found =
      co_await resolve_somewhere(services, wanted, Purpose::kListen);
  if (!found) co_return io_error(found.error());
  // One IPv6 socket serves both families when nothing else binds the IPv4 side.
  const bool both =
      std::ranges::any_of(*found, [](const KernelAddress& a) { return a.family() == AF_INET; });
  const bool only_v6 =
      both || wanted.ipv4 == false || (wanted.ipv6.value_or(false) && !wanted.ipv4.value_or(false));
  const uint16_t first = found->front().port();
  const uint16_t last = first == 0 ? 0 : std::max(first, wanted.to.value_or(first));
  Result<std::vector<int>> sockets = io_error(EADDRINUSE);
  if (first == 0) {
    for (int i = 0; i < kPortTries && !sockets && sockets.error().number() == EADDRINUSE; ++i) {
      sockets = listen_on_port(*found, 0, only_v6);
    }
    co_return sockets;
  }
  for (unsigned port = first; port <= last; ++port) {
    sockets = listen_on_port(*found, static_cast<uint16_t>(port), only_v6);
    if (sockets || sockets.error().number() != EADDRINUSE) break;
  }
  co_return sockets;
}

bool no_descriptor_left(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

// A connection that was gone before it was accepted is not the listener's failure (accept(2)).
bool peer_is_gone(int error) {
  switch (error) {
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

Task<Result<std::unique_ptr<Stream>>> connect_to(IoServices& services,
                                                 const KernelAddress& address) {
  Result<Socket> socket = make_socket(address.family());
  if (!socket) co_return io_error(socket.error());
  const int descriptor = socket->get();
  int error = ::connect(descriptor, address.get(), address.length) == 0 ? 0 : errno;
  if (error == EINPROGRESS || error == EINTR) {
    {
      DescriptorWatch watch(services.loop, descriptor);
      co_await watch.writable();
    }
    socklen_t size = sizeof error;
    error = 0;
    if (::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  } else if (error == EAGAIN) {
    // A unix socket whose queue is full gives no readiness to wait for: a worker waits.
    error = co_await services.pool.run([descriptor, &address] {
      const int flags = ::fcntl(descriptor, F_GETFL);
      ::fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
      const int result = ::connect(descriptor, address.get(), address.length) == 0 ? 0 : errno;
      ::fcntl(descriptor, F_SETFL, flags);
      return result;
    });
  }
  if (error != 0) co_return io_error(error);
  co_return ProductionStream::adopt(services.loop, descriptor, socket->release(),
                                    ProductionStream::Origin::kOurs);
}

}  // namespace

ProductionListener::ProductionListener(EventLoop& loop, std::vector<int> sockets, int waiting,
                                       SocketAddress address, std::string path)
    : loop_(loop),
      sockets_(std::move(sockets)),
      waiting_(waiting),
      address_(std::move(address)),
      path_(std::move(path)),
      watch_(loop, waiting) {}

ProductionListener::~ProductionListener() {
  BB_ASSERT(!accepting_);
  close();
}

Task<Result<std::unique_ptr<Listener>>> ProductionListener::listen(IoServices& services,
                                                                   SocketAddress address) {
  EventLoop& loop = services.loop;
  if (const auto* given = std::get_if<DescriptorAddress>(&address)) {
    co_return adopt(loop, given->descriptor);
  }
  if (const auto* local = std::get_if<UnixAddress>(&address)) {
    const Result<KernelAddress> name = kernel_address(*local);
    if (!name) co_return io_error(name.error());
    if (!local->abstract && ::unlink(local->path.c_str()) != 0 && errno != ENOENT) {
      co_return io_error(errno);
    }
    Result<Socket> socket = listen_at(*name, false);
    if (!socket) co_return io_error(socket.error());
    const int descriptor = socket->release();
    co_return std::unique_ptr<Listener>(new ProductionListener(
        loop, {descriptor}, descriptor, address, local->abstract ? std::string() : local->path));
  }
  const auto& wanted = std::get<InetAddress>(address);
  Result<std::vector<int>> sockets = co_await listen_inet(services, wanted);
  if (!sockets) co_return io_error(sockets.error());
  // The host as it was asked for, since that is what clients connect to; the port as it is.
  InetAddress here = wanted;
  here.port = std::to_string(local_address(sockets->front()).port());
  here.to.reset();
  int waiting = sockets->front();
  if (sockets->size() > 1) {
    waiting = ::epoll_create1(EPOLL_CLOEXEC);
    if (waiting < 0) {
      const int error = errno;
      for (const int socket : *sockets) ::close(socket);
      co_return io_error(error);
    }
    for (const int socket : *sockets) {
      epoll_event event = {};
      event.events = EPOLLIN;
      ::epoll_ctl(waiting, EPOLL_CTL_ADD, socket, &event);
    }
  }
  co_return std::unique_ptr<Listener>(
      new ProductionListener(loop, std::move(*sockets), waiting, std::move(here), {}));
}

Result<std::unique_ptr<Listener>> ProductionListener::adopt(EventLoop& loop, int descriptor) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) {
    return io_error(errno);
  }
  if (listens == 0) return io_error(EINVAL);
  const int flags = ::fcntl(descriptor, F_GETFL);
  ::fcntl(descriptor, F_SETFL, flags | O_NONBLOCK);
  SocketAddress address = socket_address(local_address(descriptor));
  return std::unique_ptr<Listener>(
      new ProductionListener(loop, {descriptor}, descriptor, std::move(address), {}));
}

Result<int> ProductionListener::accept_now() {
  int failure = EAGAIN;
  for (const int socket : sockets_) {
    for (;;) {
      const int descriptor = ::accept4(socket, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (descriptor >= 0) return descriptor;
      if (errno == EINTR || peer_is_gone(errno)) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) failure = errno;
      break;
    }
  }
  return io_error(failure);
}

Task<Result<std::unique_ptr<Stream>>> ProductionListener::accept() {
  BB_ASSERT(!accepting_);
  struct Pause {
    EventLoop& loop;
    Alarm& alarm;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) const {
      alarm.deadline = EventLoop::now() + kAcceptPause;
      alarm.waiter = waiter;
      loop.alarms().arm(alarm);
    }
    void await_resume() const noexcept {}
  };
  accepting_ = true;
  while (!closed_) {
    const Result<int> descriptor = accept_now();
    if (descriptor) {
      accepting_ = false;
      co_return ProductionStream::adopt(loop_, *descriptor, *descriptor,
                                        ProductionStream::Origin::kOurs);
    }
    const int error = descriptor.error().number();
    if (error == EAGAIN) {
      co_await watch_.readable();
    } else if (no_descriptor_left(error)) {
      co_await Pause{loop_, pause_};
    } else {
      accepting_ = false;
      co_return io_error(error);
    }
  }
  accepting_ = false;
  co_return io_error(ECANCELED);
}

void ProductionListener::close() {
  if (closed_) return;
  closed_ = true;
  watch_.cancel();
  if (pause_.armed()) {
    loop_.alarms().disarm(pause_);
    loop_.post(pause_.waiter);
  }
  watch_.forget();
  if (waiting_ != sockets_.front()) ::close(waiting_);
  for (const int socket : sockets_) ::close(socket);
  if (!path_.empty()) ::unlink(path_.c_str());
}

Task<Result<std::unique_ptr<Stream>>> connect_stream(IoServices& services, SocketAddress address) {
  if (const auto* given = std::get_if<DescriptorAddress>(&address)) {
    co_return ProductionStream::adopt(services.loop, given->descriptor, given->descriptor,
                                      ProductionStream::Origin::kForeign);
  }
  if (const auto* local = std::get_if<UnixAddress>(&address)) {
    const Result<KernelAddress> name = kernel_address(*local);
    if (!name) co_return io_error(name.error());
    co_return co_await connect_to(services, *name);
  }
  const auto& wanted = std::get<InetAddress>(address);
  const Result<std::vector<KernelAddress>> found =
      co_await resolve_somewhere(services, wanted, Purpose::kConnect);
  if (!found) co_return io_error(found.error());
  int failure = EADDRNOTAVAIL;
  for (const KernelAddress& one : *found) {
    Result<std::unique_ptr<Stream>> stream = co_await connect_to(services, one);
    if (stream) co_return stream;
    failure = stream.error().number();
  }
  co_return io_error(failure);
}

}  // namespace blockbed
