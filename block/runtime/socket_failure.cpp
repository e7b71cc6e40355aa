#include "block/runtime/socket_failure.h"

#include <fmt/format.h>

#include <string_view>

namespace blockbed {

namespace {

bool only_of(std::string_view text, std::string_view allowed) {
  return text.find_first_not_of(allowed) == std::string_view::npos;
}

// A failed look-up has no errno of its own: what was looked up tells why.
std::optional<std::string> resolution_failure(const InetAddress& address, Errno error) {
  const auto unresolved = [&](std::string_view why) {
    return fmt::format("address resolution failed for {}:{}: {}", address.host, address.port, why);
  };
  if (error.number() == EADDRNOTAVAIL || error.number() == EINVAL) {
    if (!only_of(address.port, "0123456789"))
      return unresolved("Servname not supported for ai_socktype");
    const bool v6 = address.host.contains(':');
    if (!v6 && !only_of(address.host, "0123456789."))
      return unresolved("Name or service not known");
    // The family that was asked for is not the address's own.
    const bool only_v4 = address.ipv6 == false || (address.ipv4 == true && address.ipv6 != true);
    const bool only_v6 = address.ipv4 == false || (address.ipv6 == true && address.ipv4 != true);
    if (!address.host.empty() && (v6 ? only_v4 : only_v6))
      return unresolved("Address family for hostname not supported");
  }
  if (error.number() == EAFNOSUPPORT)
    return unresolved("Address family for hostname not supported");
  return std::nullopt;
}

std::string not_a_socket(const DescriptorAddress& address) {
  return fmt::format("File descriptor '{}' is not a socket", address.descriptor);
}

}  // namespace

std::optional<std::string> address_failure(const SocketAddress& address) {
  if (const auto* local = std::get_if<UnixAddress>(&address)) {
    if (local->path.size() + (local->abstract ? 1 : 0) > kMaxUnixPath)
      return fmt::format("UNIX socket path '{}' is too long", local->path);
  }
  if (const auto* inet = std::get_if<InetAddress>(&address)) {
    if (inet->ipv4 == false && inet->ipv6 == false)
      return "Cannot disable IPv4 and IPv6 at same time";
  }
  return std::nullopt;
}

std::string listen_failure(const SocketAddress& address, Errno error) {
  if (const auto* local = std::get_if<UnixAddress>(&address))
    return fmt::format("Failed to bind socket to {}: {}", local->path, strerror_text(error));
  if (const auto* inet = std::get_if<InetAddress>(&address)) {
    if (auto unresolved = resolution_failure(*inet, error)) return *std::move(unresolved);
    return error.number() == EADDRINUSE
               ? fmt::format("Failed to find an available port: {}", strerror_text(error))
               : fmt::format("Failed to bind socket: {}", strerror_text(error));
  }
  return not_a_socket(std::get<DescriptorAddress>(address));
}

std::string connect_failure(const SocketAddress& address, Errno error) {
  if (const auto* local = std::get_if<UnixAddress>(&address))
    return fmt::format("Failed to connect to '{}': {}", local->path, strerror_text(error));
  if (const auto* inet = std::get_if<InetAddress>(&address)) {
    if (auto unresolved = resolution_failure(*inet, error)) return *std::move(unresolved);
    return fmt::format("Failed to connect to '{}:{}': {}", inet->host, inet->port,
                       strerror_text(error));
  }
  return not_a_socket(std::get<DescriptorAddress>(address));
}

}  // namespace blockbed
