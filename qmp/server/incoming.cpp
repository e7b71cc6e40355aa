#include "qmp/server/incoming.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>

#include "block/runtime/event_sink.h"
#include "qmp/commands/run_state.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/descriptors.h"
#include "qmp/monitor/monitor.h"
#include "qmp/schema/scalar_text.h"
#include "qmp/server/chardevs.h"
#include "qmp/server/messages.h"
#include "schema/migration.h"

namespace blockbed::server {

namespace {

// A stream begins with "QEVM" and the version of its form, and then says for which configuration it
// was made (docs/devel/migration.rst of QEMU).
constexpr uint32_t kMagic = 0x5145564d;
constexpr uint32_t kVersion = 3;
constexpr uint32_t kObsoleteVersion = 2;
constexpr std::byte kConfigurationSection{0x07};

uint32_t big_endian(const std::array<std::byte, 4>& bytes) {
  uint32_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<uint32_t>(byte);
  return value;
}

Expected<SocketAddress> inet_address(std::string_view text) {
  auto spec = parse_chardev_short_form(fmt::format("tcp:{},server=on", text));
  if (!spec) return fail(fmt::format("error parsing address '{}'", text));
  if (!*spec) return fail(std::move(*spec).error());
  return std::move(*(*spec)->endpoint.address);
}

schema::SocketAddress described(const SocketAddress& address) {
  schema::SocketAddress result;
  if (const auto* local = std::get_if<UnixAddress>(&address)) {
    schema::UnixSocketAddress shown;
    shown.path = local->path;
    result.type = schema::SocketAddressType::kUnix;
    result.u = std::move(shown);
  } else {
    const auto& inet = std::get<InetAddress>(address);
    schema::InetSocketAddress shown;
    shown.host = inet.host;
    shown.port = inet.port;
    (inet.host.contains(':') ? shown.ipv6 : shown.ipv4) = true;
    result.type = schema::SocketAddressType::kInet;
    result.u = std::move(shown);
  }
  return result;
}

}  // namespace

Incoming::Incoming(Env& env, EventSink& events, std::function<void()> end)
    : env_(env), events_(events), end_(std::move(end)), gate_(env.executor()) {}

Task<Expected<void>> Incoming::begin(std::string uri, DescriptorNames* named) {
  if (begun_) co_return fail("The incoming migration has already been started");
  schema::events::Migration event;
  event.status = schema::MigrationStatus::kSetup;
  events_.emit(event);
  BB_CO_TRY(co_await open(std::move(uri), named));
  begun_ = true;
  gate_.spawn(receive());
  co_return Expected<void>();
}

Task<Expected<void>> Incoming::open(std::string uri, DescriptorNames* named) {
  const std::string_view text = uri;
  if (text.starts_with("exec:")) co_return open_command(text.substr(5));
  if (text.starts_with("fd:")) co_return open_descriptor(text.substr(3), named);
  if (text.starts_with("unix:")) {
    if (text.size() == 5) co_return fail("invalid Unix socket address");
    co_return co_await listen(UnixAddress{std::string(text.substr(5)), false});
  }
  if (text.starts_with("tcp:")) {
    auto address = inet_address(text.substr(4));
    if (!address) co_return fail(std::move(address).error());
    co_return co_await listen(std::move(*address));
  }
  for (const std::string_view other : {"vsock:", "rdma:"}) {
    if (text.starts_with(other))
      co_return fail(fmt::format("'{}' is not implemented by Blockbed", other));
  }
  co_return fail(fmt::format("unknown migration protocol: {}", uri));
}

Expected<void> Incoming::open_command(std::string_view command) {
  auto started = ChildProcess::start(std::string(command));
  if (!started) return fail(std::move(started).error());
  UniqueDescriptor output = (*started)->take_output();
  UniqueDescriptor input = (*started)->take_input();
  auto stream = env_.adopt_stream(output.get(), input.get());
  if (!stream) return fail(strerror_text(stream.error()));
  (void)output.release();
  (void)input.release();
  command_ = std::move(*started);
  stream_ = std::move(*stream);
  is_pipe_ = true;
  return {};
}

Expected<void> Incoming::open_descriptor(std::string_view text, DescriptorNames* named) {
  UniqueDescriptor descriptor;
  const bool is_number = !text.empty() && text[0] >= '0' && text[0] <= '9';
  if (named != nullptr && !is_number) {
    auto taken = named->take(text);
    if (!taken) return fail(std::move(taken).error());
    descriptor = std::move(*taken);
  } else {
    const auto number = schema::parse_int64(std::string(text));
    if (!number || *number < 0 || *number > INT32_MAX)
      return fail(fmt::format("Invalid file descriptor number '{}'", text));
    descriptor = UniqueDescriptor(static_cast<int>(*number));
  }
  struct stat kind = {};
  if (::fstat(descriptor.get(), &kind) != 0) {
    (void)descriptor.release();
    return fail(fmt::format("Cannot use file descriptor {}: {}", text, strerror_text(errno)));
  }
  auto stream = env_.adopt_stream(descriptor.get(), descriptor.get());
  if (!stream) return fail(strerror_text(stream.error()));
  (void)descriptor.release();
  stream_ = std::move(*stream);
  is_pipe_ = S_ISFIFO(kind.st_mode);
  return {};
}

Task<Expected<void>> Incoming::listen(SocketAddress address) {
  EndpointOptions options;
  options.address = std::move(address);
  options.server = true;
  options.wait = false;
  auto endpoint = std::make_unique<Endpoint>(env_, std::move(options));
  BB_CO_TRY(co_await endpoint->open());
  listening_ = std::move(endpoint);
  co_return Expected<void>();
}

std::optional<SocketAddress> Incoming::address() const {
  return listening_ ? listening_->listens_at() : std::nullopt;
}

Task<void> Incoming::receive() {
  if (listening_) {
    auto client = co_await listening_->next();
    if (!client) co_return;
    stream_ = std::move(*client);
    // There is one guest.
    listening_->close();
  }
  const std::optional<Verdict> verdict = co_await judge();
  if (verdict && !stopped_) refuse(verdict->why, verdict->error);
}

Task<std::size_t> Incoming::read(std::span<std::byte> into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const auto more = co_await stream_->read_some(into.subspan(done));
    if (!more || *more == 0) break;
    done += *more;
  }
  co_return done;
}

Task<std::optional<Incoming::Verdict>> Incoming::judge() {
  std::array<std::byte, 4> word = {};
  if (co_await read(word) == 0 && is_pipe_) co_return std::nullopt;
  if (big_endian(word) != kMagic) co_return Verdict{"Not a migration stream", EINVAL};
  word = {};
  co_await read(word);
  if (big_endian(word) == kObsoleteVersion)
    co_return Verdict{"SaveVM v2 format is obsolete and don't work anymore", ENOTSUP};
  if (big_endian(word) != kVersion)
    co_return Verdict{"Unsupported migration stream version", ENOTSUP};
  std::array<std::byte, 1> section = {};
  co_await read(section);
  if (section[0] != kConfigurationSection)
    co_return Verdict{"Configuration section missing", EINVAL};
  co_return Verdict{"A guest cannot arrive: Blockbed has no machine that would run it", ENOTSUP};
}

void Incoming::refuse(std::string_view why, int error) {
  report_error("", why);
  report_error("", fmt::format("load of migration failed: {}", strerror_text(error)));
  refused_ = true;
  end_();
}

Task<void> Incoming::stop() {
  stopped_ = true;
  if (listening_) listening_->close();
  if (stream_) stream_->shutdown();
  co_await gate_.close();
  stream_.reset();
  listening_.reset();
  command_.reset();
}

void register_incoming_commands(CommandTable& commands, Incoming& incoming,
                                const RunStatus& status) {
  namespace c = schema::commands;
  commands.implement<c::MigrateIncoming>(
      [&incoming, &status](CommandContext& context,
                           c::MigrateIncoming::Args arguments) -> Task<Expected<void>> {
        if (status.state() != schema::RunState::kInmigrate)
          co_return fail("'-incoming' was not specified on the command line");
        co_return co_await incoming.begin(std::move(arguments.uri),
                                          &context.monitor().descriptors());
      });
  commands.implement<c::QueryMigrate>(
      [&incoming](CommandContext&, c::QueryMigrate::Args) -> Expected<schema::MigrationInfo> {
        schema::MigrationInfo info;
        if (const auto address = incoming.address()) {
          info.socket_address.emplace().push_back(described(*address));
        }
        return info;
      });
}

}  // namespace blockbed::server
