// The monitor: sessions, dispatch and events of one server.
//
// Use: fill a CommandTable and a HumanTable, make a Monitor, start(), open() an Endpoint and
// serve() it. Block-layer code emits through the EventSink that the Monitor is.
//
// Contract
//  - Each endpoint serves one client after the other, in a session of its own; sessions see each
//    other's events, not replies.
//  - emit() puts an event into the output of every session that has negotiated, at once, stamped
//    with the Env's wall clock; events that QEMU limits to one a second are limited
//    (event_throttle.h).
//  - stop() ends all sessions after what they were owed was sent (a client that does not read is
//    given kLingerNs), waits for the command that runs, and closes the endpoints.
//  - After start(), stop() must have ended before the monitor dies.
// Threading: engine thread. The tables and the Env outlive the monitor.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/env.h"
#include "block/runtime/event_sink.h"
#include "block/runtime/gate.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/descriptors.h"
#include "qmp/monitor/dispatcher.h"
#include "qmp/monitor/endpoint.h"
#include "qmp/monitor/event_throttle.h"
#include "qmp/monitor/human_command.h"

namespace blockbed {

class HumanSession;
class QmpSession;

struct MonitorOptions {
  // The version of QEMU that is spoken, in the greeting, query-version and the human banner.
  int major = 7;
  int minor = 2;
  int micro = 22;
  std::string package;
  // Takes what commands print on the server's standard output (Monitor::print).
  std::function<void(std::string_view)> standard_output;
  // Takes what people are told (EventSink::tell), with its line end.
  std::function<void(std::string_view)> standard_error;
  // Takes what went wrong (EventSink::tell_error).
  std::function<void(std::string_view)> report_error;
};

enum class MonitorMode { kControl, kControlPretty, kHuman };

class Monitor final : public EventSink {
 public:
  static constexpr int64_t kLingerNs = 2'000'000'000;

  Monitor(Env& env, CommandTable& commands, HumanTable& human, MonitorOptions options);
  ~Monitor() override;

  Env& env() const { return env_; }
  CommandTable& commands() const { return commands_; }
  const HumanTable& human() const { return human_; }
  const MonitorOptions& options() const { return options_; }
  DescriptorNames& descriptors() { return descriptors_; }
  // As on the wire: {"qemu": {...}, "package": ...}
  json::Object version() const;

  void start();
  // `endpoint` was opened.
  void serve(std::unique_ptr<Endpoint> endpoint, MonitorMode mode);
  // A single client, without an endpoint.
  void serve(std::unique_ptr<Stream> stream, MonitorMode mode);
  Task<void> stop();
  bool stopping() const { return stopping_; }

  using EventSink::emit;
  void emit(std::string_view event, json::Value data) override;
  void tell(std::string_view line) override;
  void tell_error(std::string_view text) override;

  // What commands say on the server's standard output. When a session is on standard output too,
  // the text takes its place between that session's own lines.
  void print(std::string_view text);

  // Executes a command that a negotiated client could send. `arguments` is an object.
  Task<CommandResult> execute(CommandContext& context, std::string name, json::Value arguments,
                              bool out_of_band);

  // For sessions.
  Dispatcher& dispatcher() { return dispatcher_; }

 private:
  Task<void> serve_endpoint(Endpoint& endpoint, MonitorMode mode);
  Task<void> serve_stream(std::unique_ptr<Stream> stream, MonitorMode mode, bool is_stdio);
  void broadcast(const json::Object& event);

  Env& env_;
  CommandTable& commands_;
  HumanTable& human_;
  const MonitorOptions options_;
  DescriptorNames descriptors_;
  Dispatcher dispatcher_;
  EventThrottle throttle_;
  Gate gate_;
  std::list<std::unique_ptr<Endpoint>> endpoints_;
  std::list<std::shared_ptr<QmpSession>> sessions_;
  std::list<std::shared_ptr<HumanSession>> human_sessions_;
  // The session that is on standard output, if there is one: appends raw bytes to it.
  std::function<void(std::string_view)> stdio_session_;
  bool stopping_ = false;
};

}  // namespace blockbed
