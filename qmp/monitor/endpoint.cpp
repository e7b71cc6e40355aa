#include "qmp/monitor/endpoint.h"

#include <fmt/format.h>

#include <utility>

#include "block/runtime/assert.h"
#include "block/runtime/socket_failure.h"

namespace blockbed {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// After a failed accept() (no descriptors left): long enough not to spin.
constexpr int64_t kAcceptAgainNs = 100'000'000;

std::string host_and_port(const InetAddress& inet) {
  const bool v6 = inet.host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", inet.host, inet.port)
            : fmt::format("{}:{}", inet.host, inet.port);
}

}  // namespace

Endpoint::Endpoint(Env& env, EndpointOptions options)
    : env_(env), options_(std::move(options)), timer_(env.make_timer()) {}

Endpoint::~Endpoint() = default;

Task<Expected<void>> Endpoint::open() {
  if (!options_.address) {
    auto stream = env_.adopt_stream(options_.input, options_.output);
    if (!stream) co_return fail(strerror_text(stream.error()));
    first_ = *std::move(stream);
    co_return Expected<void>();
  }
  const SocketAddress& address = *options_.address;
  if (auto wrong = address_failure(address)) {
    Error error(*std::move(wrong));
    if (std::holds_alternative<UnixAddress>(address))
      error.hint = fmt::format("Path must be less than {} bytes", kMaxUnixPath);
    co_return fail(std::move(error));
  }
  const auto* inherited = std::get_if<DescriptorAddress>(&address);
  if (options_.server) {
    Result<std::unique_ptr<Listener>> listener;
    if (inherited != nullptr) {
      listener = env_.adopt_listener(inherited->descriptor);
    } else {
      listener = co_await env_.listen(address);
    }
    if (!listener) co_return fail(listen_failure(address, listener.error()));
    listener_ = *std::move(listener);
    co_return Expected<void>();
  }
  Result<std::unique_ptr<Stream>> stream;
  if (inherited != nullptr) {
    stream = env_.adopt_stream(inherited->descriptor, inherited->descriptor);
  } else {
    stream = co_await env_.connect(address);
  }
  if (!stream) {
    std::string failure = connect_failure(address, stream.error());
    if (options_.reconnect_seconds == 0) co_return fail(std::move(failure));
    // A peer that is not there yet is waited for.
    first_failure_ = std::move(failure);
    co_return Expected<void>();
  }
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

std::optional<SocketAddress> Endpoint::listens_at() const {
  return listener_ ? std::optional(listener_->address()) : std::nullopt;
}

std::string Endpoint::description() const {
  if (!options_.address) return options_.description;
  const SocketAddress address = listener_ ? listener_->address() : *options_.address;
  std::string text = peer_ ? "" : "disconnected:";
  if (const auto* unix = std::get_if<UnixAddress>(&address)) {
    text += fmt::format("unix:{}{}", unix->path, unix->abstract ? ",abstract=on,tight=on" : "");
  } else if (const auto* inet = std::get_if<InetAddress>(&address)) {
    // QEMU prints brackets once there is a client.
    text += peer_ ? fmt::format("tcp:{}", host_and_port(*inet))
                  : fmt::format("tcp:{}:{}", inet->host, inet->port);
  } else {
    text += fmt::format("fd:{}", std::get<DescriptorAddress>(address).descriptor);
  }
  if (options_.server) text += ",server=on";
  const InetAddress* other = peer_ ? std::get_if<InetAddress>(&*peer_) : nullptr;
  return other == nullptr ? text : fmt::format("{} <-> {}", text, host_and_port(*other));
}

}  // namespace blockbed
