#include "qmp/server/qtest.h"

#include <fmt/format.h>

#include <array>

#include "qmp/schema/scalar_text.h"

namespace blockbed::server {

QtestServer::QtestServer(Executor& executor, GuestClock& clock, std::unique_ptr<Endpoint> endpoint)
    : clock_(clock), endpoint_(std::move(endpoint)), gate_(executor) {}

void QtestServer::start() { gate_.spawn(serve()); }

Task<void> QtestServer::stop() {
  if (endpoint_) endpoint_->close();
  if (stream_) stream_->shutdown();
  co_await gate_.close();
}

std::string QtestServer::answer(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const std::size_t space = line.find(' ');
  const std::string_view word = line.substr(0, space);
  const std::string argument(space == std::string_view::npos ? std::string_view()
                                                             : line.substr(space + 1));
  if (word == "clock_step" || word == "clock_set") {
    int64_t target = clock_.next_alarm(clock_.now());
    if (!argument.empty()) {
      const auto number = schema::parse_int64(argument);
      const int64_t base = word == "clock_step" ? clock_.now() : 0;
      if (!number || *number < 0 || *number > INT64_MAX - base) {
        return fmt::format("FAIL Invalid time '{}'\n", argument);
      }
      target = base + *number;
    }
    if (clock_.held()) clock_.step_to(target);
    return fmt::format("OK {}\n", clock_.now());
  }
  if (word == "endianness") return "OK little\n";
  return fmt::format("FAIL Unknown command '{}'\n", word);
}

Task<void> QtestServer::serve() {
  if (!endpoint_) co_return;
  auto stream = co_await endpoint_->next();
  if (!stream) co_return;
  stream_ = std::move(*stream);
  std::string pending;
  std::array<std::byte, 1024> portion;
  while (true) {
    auto got = co_await stream_->read_some(portion);
    if (!got || *got == 0) co_return;
    pending.append(reinterpret_cast<const char*>(portion.data()), *got);
    while (true) {
      const std::size_t end = pending.find('\n');
      if (end == std::string::npos) break;
      const std::string reply = answer(std::string_view(pending).substr(0, end));
      pending.erase(0, end + 1);
      auto sent = co_await stream_->write_all(IoVector(std::as_bytes(std::span(reply))));
      if (!sent) co_return;
    }
    if (pending.size() > kMaxLine) co_return;
  }
}

}  // namespace blockbed::server
