#include "block/runtime/socket_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace blockbed {

namespace {

sockaddr_in& v4(sockaddr_storage& s) { return reinterpret_cast<sockaddr_in&>(s); }
sockaddr_in6& v6(sockaddr_storage& s) { return reinterpret_cast<sockaddr_in6&>(s); }
const sockaddr_in& v4(const sockaddr_storage& s) { return reinterpret_cast<const sockaddr_in&>(s); }
const sockaddr_in6& v6(const sockaddr_storage& s) {
  return reinterpret_cast<const sockaddr_in6&>(s);
}

int errno_of(int failure) {
  switch (failure) {
    case EAI_NONAME:
    case EAI_NODATA:
    case EAI_ADDRFAMILY:
    case EAI_SERVICE:
      return EADDRNOTAVAIL;
    case EAI_FAMILY:
      return EAFNOSUPPORT;
    case EAI_MEMORY:
      return ENOMEM;
    case EAI_SYSTEM:
      return errno != 0 ? errno : EIO;
    default:
      return EIO;
  }
}

}  // namespace

uint16_t KernelAddress::port() const {
  if (family() == AF_INET) return ntohs(v4(storage).sin_port);
  if (family() == AF_INET6) return ntohs(v6(storage).sin6_port);
  return 0;
}

void KernelAddress::set_port(uint16_t port) {
  if (family() == AF_INET) v4(storage).sin_port = htons(port);
  if (family() == AF_INET6) v6(storage).sin6_port = htons(port);
}

bool KernelAddress::wildcard() const {
  if (family() == AF_INET) return v4(storage).sin_addr.s_addr == htonl(INADDR_ANY);
  if (family() == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&v6(storage).sin6_addr);
  return false;
}

Result<KernelAddress> kernel_address(const UnixAddress& address) {
  KernelAddress result;
  auto& name = reinterpret_cast<sockaddr_un&>(result.storage);
  const std::size_t extra = address.abstract ? 1 : 0;
  if (address.path.empty()) return io_error(EINVAL);
  if (address.path.size() + extra > sizeof name.sun_path) return io_error(ENAMETOOLONG);
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path + extra, address.path.data(), address.path.size());
  // The kernel wants no terminator when the path fills its place.
  result.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + extra + address.path.size());
  return result;
}

Result<std::vector<KernelAddress>> resolve(const InetAddress& address, Purpose purpose, Resolve how,
                                           std::size_t limit) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = purpose == Purpose::kListen ? AI_PASSIVE : 0;
  // Services stand in a file.
  if (how == Resolve::kNumericOnly) hints.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
  const bool only_v4 = address.ipv4.value_or(false) && !address.ipv6.value_or(false);
  const bool only_v6 = address.ipv6.value_or(false) && !address.ipv4.value_or(false);
  const bool no_v4 = address.ipv4 == false;
  const bool no_v6 = address.ipv6 == false;
  if (no_v4 && no_v6) return io_error(EINVAL);
  hints.ai_family = only_v4 || no_v6 ? AF_INET : only_v6 || no_v4 ? AF_INET6 : AF_UNSPEC;
  addrinfo* found = nullptr;
  errno = 0;
  const int failure =
      ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                    address.port.empty() ? "0" : address.port.c_str(), &hints, &found);
  if (failure != 0) {
    if (how == Resolve::kNumericOnly) return io_error(EAGAIN);
    return io_error(errno_of(failure));
  }
  std::vector<KernelAddress> result;
  for (const addrinfo* a = found; a != nullptr && result.size() < limit; a = a->ai_next) {
    if (a->ai_addrlen > sizeof(sockaddr_storage)) continue;
    KernelAddress one;
    std::memcpy(&one.storage, a->ai_addr, a->ai_addrlen);
    one.length = a->ai_addrlen;
    // A hosts file may name one twice, and no address can be bound twice.
    if (std::ranges::any_of(result, [&one](const KernelAddress& other) {
          return other.length == one.length &&
                 std::memcmp(&other.storage, &one.storage, one.length) == 0;
        })) {
      continue;
    }
    result.push_back(one);
  }
  ::freeaddrinfo(found);
  if (result.empty()) return io_error(EADDRNOTAVAIL);
  return result;
}

SocketAddress socket_address(const KernelAddress& address) {
  if (address.family() == AF_UNIX) {
    const auto& name = reinterpret_cast<const sockaddr_un&>(address.storage);
    const std::size_t length =
        address.length - std::min<std::size_t>(address.length, offsetof(sockaddr_un, sun_path));
    UnixAddress result;
    if (length > 0) {
      result.abstract = name.sun_path[0] == '\0';
      result.path = result.abstract ? std::string(name.sun_path + 1, length - 1)
                                    : std::string(name.sun_path, ::strnlen(name.sun_path, length));
    }
    return result;
  }
  char host[NI_MAXHOST] = "";
  char port[NI_MAXSERV] = "";
  ::getnameinfo(address.get(), address.length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
  InetAddress result;
  result.host = host;
  result.port = port;
  if (address.family() == AF_INET) result.ipv4 = true;
  if (address.family() == AF_INET6) result.ipv6 = true;
  return result;
}

}  // namespace blockbed
