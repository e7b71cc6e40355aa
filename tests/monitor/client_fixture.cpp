#include "tests/monitor/client_fixture.h"

#include <cstring>
#include <span>

#include "qmp/monitor/monitor_commands.h"

namespace blockbed::test {

Task<void> Client::send(std::string text) {
  const auto sent =
      co_await stream_->write_all(IoVector(std::as_bytes(std::span<const char>(text))));
  (void)sent;
}

Task<bool> Client::read_more() {
  std::byte portion[4096];
  const auto got = co_await stream_->read_some(portion);
  if (!got || *got == 0) co_return false;
  buffer_.append(reinterpret_cast<const char*>(portion), *got);
  co_return true;
}

Task<std::string> Client::line() {
  while (true) {
    if (const std::size_t end = buffer_.find("\r\n"); end != std::string::npos) {
      std::string text = buffer_.substr(0, end);
      buffer_.erase(0, end + 2);
      co_return text;
    }
    if (!co_await read_more()) co_return "<end>";
  }
}

Task<std::vector<std::string>> Client::lines(std::size_t count) {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < count; ++i) all.push_back(co_await line());
  co_return all;
}

Task<std::string> Client::rest() {
  while (co_await read_more()) {
  }
  co_return std::exchange(buffer_, {});
}

Task<std::string> Client::until(std::string mark) {
  while (buffer_.find(mark) == std::string::npos) {
    if (!co_await read_more()) co_return std::exchange(buffer_, {}) + "<end>";
  }
  const std::size_t end = buffer_.find(mark) + mark.size();
  std::string text = buffer_.substr(0, end);
  buffer_.erase(0, end);
  co_return text;
}

Task<void> Client::negotiate(bool oob) {
  co_await line();
  co_await send(oob ? R"({"execute":"qmp_capabilities","arguments":{"enable":["oob"]}})"
                    : R"({"execute":"qmp_capabilities"})");
  co_await line();
}

Task<std::string> Client::ask(std::string text) {
  co_await send(std::move(text));
  co_return co_await line();
}

Server::Server(uint64_t seed, Manner manner) : env(seed), commands(manner) {
  register_monitor_commands(commands);
  MonitorOptions options;
  options.package = "test";
  options.standard_output = [this](std::string_view text) { printed += text; };
  monitor = std::make_unique<Monitor>(env, commands, human, std::move(options));
  monitor->start();
}

Server::~Server() = default;

Client Server::connect(MonitorMode mode) {
  auto [ours, theirs] = env.network().make_pair();
  monitor->serve(std::move(ours), mode);
  return Client(std::move(theirs));
}

Task<void> Server::run_and_stop(Task<void> test) {
  co_await std::move(test);
  co_await monitor->stop();
}

void Server::run(Task<void> test) { env.run(run_and_stop(std::move(test))); }

}  // namespace blockbed::test
