#include "qmp/commands/export_commands.h"

#include <fmt/format.h>

#include <charconv>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"

namespace blockbed {

namespace {

namespace c = schema::commands;

schema::SocketAddress without_wrappers(schema::SocketAddressLegacy legacy) {
  schema::SocketAddress address;
  address.type = legacy.type;
  std::visit([&address](auto& wrapper) { address.u = std::move(wrapper.data); }, legacy.u);
  return address;
}

Expected<int> descriptor_of(const std::string& text, DescriptorNames* descriptors) {
  if (descriptors != nullptr) {
    Expected<UniqueDescriptor> named = descriptors->take(text);
    if (!named) return fail(std::move(named).error());
    return named->release();
  }
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) {
    return fail(fmt::format("Unable to parse FD number {}", text));
  }
  return number;
}

// To the Env's form. A named descriptor belongs to whoever uses the address.
Expected<SocketAddress> to_socket_address(const schema::SocketAddress& given,
                                          DescriptorNames* descriptors) {
  if (const auto* inet = std::get_if<schema::InetSocketAddress>(&given.u)) {
    return InetAddress{inet->host, inet->port, inet->ipv4, inet->ipv6, inet->to};
  }
  if (const auto* local = std::get_if<schema::UnixSocketAddress>(&given.u)) {
    return UnixAddress{local->path, local->abstract.value_or(false)};
  }
  if (const auto* descriptor = std::get_if<schema::String>(&given.u)) {
    Expected<int> number = descriptor_of(descriptor->str, descriptors);
    if (!number) return fail(std::move(number).error());
    return DescriptorAddress{*number};
  }
  return fail("socket family AF_VSOCK unsupported");
}

}  // namespace

Task<Expected<void>> start_nbd_server(const ExportServices& services, NbdServerRequest request,
                                      DescriptorNames* descriptors) {
  // Before a descriptor is taken out of its name.
  if (services.nbd.running()) co_return fail("NBD server already running");
  if (request.tls_creds) {
    const std::optional<std::string> type =
        services.object_type ? services.object_type(*request.tls_creds) : std::nullopt;
    if (!type) co_return fail(fmt::format("No TLS credentials with id '{}'", *request.tls_creds));
    if (!type->starts_with("tls-creds")) {
      co_return fail(fmt::format("Object with id '{}' is not TLS credentials", *request.tls_creds));
    }
    co_return fail("TLS is not implemented by Blockbed's NBD server");
  }
  Expected<SocketAddress> address = to_socket_address(request.address, descriptors);
  if (!address) co_return fail(std::move(address).error());
  nbd::NbdServerSettings settings;
  settings.address = *std::move(address);
  settings.max_connections = request.max_connections.value_or(settings.max_connections);
  co_return co_await services.nbd.start(std::move(settings));
}

void register_export_commands(CommandTable& commands, ExportServices services) {
  commands.implement<c::NbdServerStart>(
      [services](CommandContext& context, c::NbdServerStart::Args args) -> Task<Expected<void>> {
        NbdServerRequest request;
        request.address = without_wrappers(std::move(args.addr));
        request.tls_creds = std::move(args.tls_creds);
        request.max_connections = args.max_connections;
        co_return co_await start_nbd_server(services, std::move(request),
                                            &context.monitor().descriptors());
      });
  commands.implement<c::NbdServerAdd>(
      [&registry = services.registry](CommandContext&,
                                      c::NbdServerAdd::Args args) -> Task<Expected<void>> {
        co_return co_await registry.add_nbd(args);
      });
  commands.implement<c::NbdServerRemove>(
      [&registry = services.registry](CommandContext&,
                                      c::NbdServerRemove::Args args) -> Task<Expected<void>> {
        co_return co_await registry.remove_nbd(
            args.name, args.mode.value_or(schema::BlockExportRemoveMode::kSafe));
      });
  commands.implement<c::NbdServerStop>(
      [&nbd = services.nbd](CommandContext&, c::NbdServerStop::Args) -> Task<Expected<void>> {
        co_return co_await nbd.stop();
      });
  commands.implement<c::BlockExportAdd>(
      [&registry = services.registry](CommandContext&,
                                      c::BlockExportAdd::Args args) -> Task<Expected<void>> {
        co_return co_await registry.add(args);
      });
  commands.implement<c::BlockExportDel>(
      [&registry = services.registry](CommandContext&,
                                      c::BlockExportDel::Args args) -> Task<Expected<void>> {
        co_return co_await registry.remove(
            args.id, args.mode.value_or(schema::BlockExportRemoveMode::kSafe));
      });
  commands.implement<c::QueryBlockExports>(
      [&registry = services.registry](CommandContext&, c::QueryBlockExports::Args)
          -> Expected<std::vector<schema::BlockExportInfo>> { return registry.query(); });
}

}  // namespace blockbed
