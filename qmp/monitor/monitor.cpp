#include "qmp/monitor/monitor.h"

#include <utility>

#include "block/runtime/assert.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/human_session.h"
#include "qmp/monitor/qmp_session.h"
#include "qmp/schema/json_write.h"

namespace blockbed {

Monitor::Monitor(Env& env, CommandTable& commands, HumanTable& human, MonitorOptions options)
    : env_(env),
      commands_(commands),
      human_(human),
      options_(std::move(options)),
      dispatcher_(env.executor()),
      throttle_(env, [this](json::Object event) { broadcast(event); }),
      gate_(env.executor()) {}

Monitor::~Monitor() { BB_ASSERT(sessions_.empty() && human_sessions_.empty()); }

json::Object Monitor::version() const {
  json::Object numbers;
  numbers.append_new("major", options_.major);
  numbers.append_new("minor", options_.minor);
  numbers.append_new("micro", options_.micro);
  json::Object version;
  version.append_new("qemu", std::move(numbers));
  version.append_new("package", options_.package);
  return version;
}

void Monitor::start() { dispatcher_.start(); }

void Monitor::serve(std::unique_ptr<Endpoint> endpoint, MonitorMode mode) {
  endpoints_.push_back(std::move(endpoint));
  gate_.spawn(serve_endpoint(*endpoints_.back(), mode));
}

void Monitor::serve(std::unique_ptr<Stream> stream, MonitorMode mode) {
  gate_.spawn(serve_stream(std::move(stream), mode, false));
}

Task<void> Monitor::serve_endpoint(Endpoint& endpoint, MonitorMode mode) {
  while (!stopping_) {
    auto stream = co_await endpoint.next();
    if (!stream) co_return;
    endpoint.set_peer((*stream)->peer());
    co_await serve_stream(*std::move(stream), mode, endpoint.is_stdio());
    endpoint.set_peer(std::nullopt);
  }
}

Task<void> Monitor::serve_stream(std::unique_ptr<Stream> stream, MonitorMode mode, bool is_stdio) {
  if (stopping_) co_return;
  if (mode == MonitorMode::kHuman) {
    const auto session = std::make_shared<HumanSession>(*this, std::move(stream));
    const auto place = human_sessions_.insert(human_sessions_.end(), session);
    if (is_stdio) {
      stdio_session_ = [&session = *session](std::string_view text) { session.print_raw(text); };
    }
    co_await session->run();
    human_sessions_.erase(place);
  } else {
    const bool pretty = mode == MonitorMode::kControlPretty;
    const auto session = std::make_shared<QmpSession>(*this, std::move(stream), pretty, is_stdio);
    const auto place = sessions_.insert(sessions_.end(), session);
    if (is_stdio) {
      stdio_session_ = [&session = *session](std::string_view text) { session.send_raw(text); };
    }
    co_await session->run();
    sessions_.erase(place);
  }
  if (is_stdio) stdio_session_ = nullptr;
}

Task<void> Monitor::stop() {
  stopping_ = true;
  for (const auto& endpoint : endpoints_) endpoint->close();
  co_await throttle_.stop();
  co_await dispatcher_.stop();
  Gate ending(env_.executor());
  for (const auto& session : std::list(sessions_)) ending.spawn(session->end());
  for (const auto& session : std::list(human_sessions_)) ending.spawn(session->end());
  co_await ending.close();
  co_await gate_.close();
  endpoints_.clear();
}

void Monitor::emit(std::string_view event, json::Value data) {
  const WallTime time = env_.wall_time();
  json::Object stamp;
  stamp.append_new("seconds", time.seconds);
  stamp.append_new("microseconds", time.microseconds);
  json::Object message;
  message.append_new("event", std::string(event));
  const bool empty = data.is_null() || (data.is_object() && data.as_object().empty());
  if (!empty) message.append_new("data", std::move(data));
  message.append_new("timestamp", std::move(stamp));
  throttle_.pass(event, std::move(message));
}

void Monitor::broadcast(const json::Object& event) {
  std::string compact;
  std::string pretty;
  for (const auto& session : sessions_) {
    if (!session->negotiated()) continue;
    std::string& text = session->pretty() ? pretty : compact;
    if (text.empty()) {
      session->pretty() ? json::write_pretty(text, event) : json::write(text, event);
    }
    session->send(text);
  }
}

void Monitor::print(std::string_view text) {
  if (stdio_session_) {
    stdio_session_(text);
  } else if (options_.standard_output) {
    options_.standard_output(text);
  }
}

void Monitor::tell(std::string_view line) {
  if (options_.standard_error) options_.standard_error(std::string(line) + "\n");
}

void Monitor::tell_error(std::string_view text) {
  if (options_.report_error) options_.report_error(text);
}

Task<CommandResult> Monitor::execute(CommandContext& context, std::string name,
                                     json::Value arguments, bool out_of_band) {
  Command* command = commands_.find(name);
  if (command == nullptr) co_return fail(commands_.why_not(name));
  if (out_of_band && !command->flags.oob) {
    co_return fail("The command " + name + " does not support OOB");
  }
  if (auto* plain = std::get_if<PlainCommand>(&command->handler)) {
    co_return (*plain)(context, std::move(arguments));
  }
  auto task = std::get<CoroutineCommand>(command->handler)(context, std::move(arguments));
  co_return co_await std::move(task);
}

}  // namespace blockbed
