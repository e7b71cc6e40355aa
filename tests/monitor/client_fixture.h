// A monitor on the simulator, and clients that talk to it.
//
// Bytes are cut and delayed by the seed, and the order of ready coroutines is the seed's: what
// holds for many seeds does not hold by luck.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_network.h"
#include "qmp/monitor/monitor.h"
#include "qmp/schema/json.h"

namespace blockbed::test {

// The other end of a session.
class Client {
 public:
  explicit Client(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  Task<void> send(std::string text);
  // The next line without its CR LF; "<end>" when the server has ended the session.
  Task<std::string> line();
  Task<std::vector<std::string>> lines(std::size_t count);
  // Everything until the end.
  Task<std::string> rest();
  // Everything up to and including `mark`.
  Task<std::string> until(std::string mark);
  // Sends qmp_capabilities and takes greeting and reply.
  Task<void> negotiate(bool oob = false);
  // Sends a command and gives its reply.
  Task<std::string> ask(std::string text);

  void shutdown() { stream_->shutdown(); }
  Stream& stream() { return *stream_; }

 private:
  Task<bool> read_more();

  std::unique_ptr<Stream> stream_;
  std::string buffer_;
};

// A server that has nothing but a monitor.
class Server {
 public:
  explicit Server(uint64_t seed, Manner manner = Manner::kSystem);
  ~Server();

  sim::SimEnv env;
  CommandTable commands;
  HumanTable human;
  std::string printed;
  std::unique_ptr<Monitor> monitor;

  Client connect(MonitorMode mode = MonitorMode::kControl);
  // Runs the test's coroutine, then stops the monitor.
  void run(Task<void> test);

 private:
  Task<void> run_and_stop(Task<void> test);
};

}  // namespace blockbed::test
