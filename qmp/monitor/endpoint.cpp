#include "qmp/monitor/endpoint.h"

#include <fmt/format.h>

#include <utility>

#include "block/runtime/assert.h"

namespace blockbed {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// After a failed accept() (no descriptors left): long enough not to spin.
constexpr int64_t kAcceptAgainNs = 100'000'000;
constexpr int kStandardInput = 0;
constexpr int kStandardOutput = 1;

std::string host_and_port(const InetAddress& inet) {
  const bool v6 = inet.host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", inet.host, inet.port)
            : fmt::format("{}:{}", inet.host, inet.port);
}

std::string cannot_listen(const SocketAddress& address, Errno error) {
  const std::string reason = strerror_text(error);
  if (const auto* unix = std::get_if<UnixAddress>(&address)) {
    return fmt::format("Failed to bind socket to {}: {}", unix->path, reason);
  }
  if (std::holds_alternative<InetAddress>(address)) {
    return fmt::format("Failed to find an available port: {}", reason);
  }
  const int descriptor = std::get<DescriptorAddress>(address).descriptor;
  return fmt::format("File descriptor '{}' is not a socket", descriptor);
}

std::string cannot_connect(const SocketAddress& address, Errno error) {
  const std::string reason = strerror_text(error);
  if (const auto* unix = std::get_if<UnixAddress>(&address)) {
    return fmt::format("Failed to connect to '{}': {}", unix->path, reason);
  }
  if (const auto* inet = std::get_if<InetAddress>(&address)) {
    return fmt::format("Failed to connect to '{}:{}': {}", inet->host, inet->port, reason);
  }
  return cannot_listen(address, error);
}

}  // namespace

Endpoint::Endpoint(Env& env, EndpointOptions options)
    : env_(env), options_(std::move(options)), timer_(env.make_timer()) {}

Endpoint::~Endpoint() = default;

Task<Expected<void>> Endpoint::open() {
  if (is_stdio()) {
    auto stream = env_.adopt_stream(kStandardInput, kStandardOutput);
    if (!stream) co_return fail(strerror_text(stream.error()));
    first_ = *std::move(stream);
    co_return Expected<void>();
  }
  const SocketAddress& address = *options_.address;
  const auto* inherited = std::get_if<DescriptorAddress>(&address);
  if (options_.server) {
    Result<std::unique_ptr<Listener>> listener;
    if (inherited != nullptr) {
      listener = env_.adopt_listener(inherited->descriptor);
    } else {
      listener = co_await env_.listen(address);
    }
    if (!listener) co_return fail(cannot_listen(address, listener.error()));
    listener_ = *std::move(listener);
    co_return Expected<void>();
  }
  Result<std::unique_ptr<Stream>> stream;
  if (inherited != nullptr) {
    stream = env_.adopt_stream(inherited->descriptor, inherited->descriptor);
  } else {
    stream = co_await env_.connect(address);
  }
  // With `reconnect` a peer that is not there yet is waited for.
  if (!stream && options_.reconnect_seconds > 0) co_return Expected<void>();
  if (!stream) co_return fail(cannot_connect(address, stream.error()));
  first_ = *std::move(stream);
  co_return Expected<void>();
}

Task<Expected<void>> Endpoint::wait_for_first() {
  BB_ASSERT(must_wait() && listener_ && !first_);
  auto stream = co_await listener_->accept();
  if (!stream) co_return fail(strerror_text(stream.error()));
  first_ = *std::move(stream);
  co_return Expected<void>();
}

Task<Result<std::unique_ptr<Stream>>> Endpoint::next() {
  if (closed_) co_return io_error(ECANCELED);
  if (first_) co_return std::move(first_);
  if (!listener_) {
    if (options_.reconnect_seconds == 0) co_return io_error(ENOTCONN);
    co_return co_await connect_again();
  }
  while (true) {
    auto stream = co_await listener_->accept();
    if (closed_) co_return io_error(ECANCELED);
    if (stream) co_return stream;
    co_await timer_->wait_until(env_.now() + kAcceptAgainNs);
    if (closed_) co_return io_error(ECANCELED);
  }
}

Task<Result<std::unique_ptr<Stream>>> Endpoint::connect_again() {
  while (true) {
    co_await timer_->wait_until(env_.now() + options_.reconnect_seconds * kSecondNs);
    if (closed_) co_return io_error(ECANCELED);
    auto stream = co_await env_.connect(*options_.address);
    if (closed_) co_return io_error(ECANCELED);
    if (stream) co_return stream;
  }
}

void Endpoint::close() {
  closed_ = true;
  timer_->cancel();
  if (listener_) listener_->close();
}

std::string Endpoint::description() const {
  if (is_stdio()) return "stdio";
  const SocketAddress address = listener_ ? listener_->address() : *options_.address;
  std::string text = connected_ ? "" : "disconnected:";
  if (const auto* unix = std::get_if<UnixAddress>(&address)) {
    text += fmt::format("unix:{}{}", unix->path, unix->abstract ? ",abstract=on" : "");
  } else if (const auto* inet = std::get_if<InetAddress>(&address)) {
    text += fmt::format("tcp:{}", host_and_port(*inet));
  } else {
    text += fmt::format("fd:{}", std::get<DescriptorAddress>(address).descriptor);
  }
  return options_.server ? text + ",server=on" : text;
}

}  // namespace blockbed
