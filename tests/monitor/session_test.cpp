#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/output_queue.h"
#include "qmp/monitor/qmp_session.h"
#include "schema/control.h"
#include "tests/monitor/client_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr schema::CommandFlags kBoth{.in_system = true, .in_daemon = true};
constexpr schema::CommandFlags kOob{.oob = true, .in_system = true, .in_daemon = true};
constexpr uint64_t kSeeds = 50;

constexpr std::string_view kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "test"}, )"
    R"("capabilities": ["oob"]}})";

// Commands for the tests: `note` writes its argument down, `wait` ends when the test says so.
struct Stage {
  explicit Stage(Server& s) : server(s), released(s.env.executor()) {
    server.commands.implement_raw(
        "note", kOob, PlainCommand([this](CommandContext&, json::Value arguments) -> CommandResult {
          notes.push_back(arguments.as_object().find("text")->as_string());
          return json::Value(json::Object());
        }));
    server.commands.implement_raw(
        "wait", kBoth, CoroutineCommand([this](CommandContext&, json::Value) { return wait(); }));
    server.commands.implement_raw(
        "emit", kBoth,
        PlainCommand([this](CommandContext& context, json::Value arguments) -> CommandResult {
          context.monitor().emit(arguments.as_object().find("event")->as_string(), json::Value());
          notes.push_back("emitted");
          return json::Value(json::Object());
        }));
  }

  Task<CommandResult> wait() {
    notes.push_back("waiting");
    ++waiting;
    co_await released.wait();
    notes.push_back("released");
    co_return json::Value("waited");
  }

  Server& server;
  std::vector<std::string> notes;
  Event released;
  int waiting = 0;
};

std::string note(std::string text) {
  return R"({"execute":"note","arguments":{"text":")" + text + R"("},"id":")" + text + "\"}";
}

Task<void> negotiation(Server& server) {
  Client client = server.connect();
  EXPECT_EQ(co_await client.line(), kGreeting);
  EXPECT_EQ(co_await client.ask(R"({"execute":"query-version","id":1})"),
            R"({"id": 1, "error": {"class": "CommandNotFound", "desc": )"
            R"("Expecting capabilities negotiation with 'qmp_capabilities'"}})");
  EXPECT_EQ(co_await client.ask("}"),
            R"({"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}})");
  EXPECT_EQ(co_await client.ask(R"({"execute":"qmp_capabilities","arguments":{"enable":"oob"}})"),
            R"({"error": {"class": "GenericError", "desc": )"
            R"("Invalid parameter type for 'enable', expected: array"}})");
  EXPECT_EQ(co_await client.ask(R"({"execute":"qmp_capabilities"})"), R"({"return": {}})");
  EXPECT_EQ(co_await client.ask(R"({"execute":"qmp_capabilities","id":{}})"),
            R"({"id": {}, "error": {"class": "CommandNotFound", "desc": )"
            R"("Capabilities negotiation is already complete, command ignored"}})");
  EXPECT_EQ(co_await client.ask(R"({"execute":"query-version"})"),
            R"({"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "test"}})");
}

TEST(QmpSession, Negotiation) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    server.run(negotiation(server));
  });
}

Task<void> faults(Server& server) {
  Client client = server.connect();
  co_await client.negotiate();
  const auto error = [](std::string text) {
    return R"({"error": {"class": "GenericError", "desc": ")" + text + "\"}}";
  };
  EXPECT_EQ(co_await client.ask("[]"), error("QMP input must be a JSON object"));
  EXPECT_EQ(co_await client.ask("{}"), error("QMP input lacks member 'execute'"));
  EXPECT_EQ(co_await client.ask(R"({"execute":1})"),
            error("QMP input member 'execute' must be a string"));
  EXPECT_EQ(co_await client.ask(R"({"execute":"x","arguments":[]})"),
            error("QMP input member 'arguments' must be an object"));
  EXPECT_EQ(co_await client.ask(R"({"exec-oob":"x"})"),
            error("QMP input member 'exec-oob' is unexpected"));
  // Of two unknown members the one that hashes lower is named.
  EXPECT_EQ(co_await client.ask(R"({"foo":1,"bar":1})"),
            error("QMP input member 'bar' is unexpected"));
  EXPECT_EQ(co_await client.ask(R"({"execute":"query-version","arguments":{"a":1}})"),
            error("Parameter 'a' is unexpected"));
  EXPECT_EQ(co_await client.ask(R"({"execute":"nope"})"),
            R"({"error": {"class": "CommandNotFound", "desc": )"
            R"("The command nope has not been found"}})");
  EXPECT_EQ(co_await client.ask(R"({"execute":"blockdev-add","arguments":{}})"),
            error("The command blockdev-add is not implemented by Blockbed"));
}

TEST(QmpSession, FaultsOfMessages) {
  Server server(1);
  server.run(faults(server));
}

Task<void> commands_in_order(Server& server, Stage& stage, bool oob) {
  Client client = server.connect();
  co_await client.negotiate(oob);
  std::string all;
  std::vector<std::string> expected;
  for (int i = 0; i < 30; ++i) {
    all += note(std::to_string(i));
    expected.push_back(std::to_string(i));
  }
  co_await client.send(all);
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(co_await client.line(), R"({"return": {}, "id": ")" + std::to_string(i) + "\"}");
  }
  EXPECT_EQ(stage.notes, expected);
}

TEST(QmpSession, CommandsRunInOrder) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    for (const bool oob : {false, true}) {
      Server server(seed);
      Stage stage(server);
      server.run(commands_in_order(server, stage, oob));
    }
  });
}

Task<void> oob_overtakes(Server& server, Stage& stage) {
  Client client = server.connect();
  co_await client.negotiate(true);
  co_await client.send(R"({"execute":"wait","id":"w"})" + note("after") +
                       R"({"exec-oob":"note","arguments":{"text":"oob"},"id":"o"})" +
                       R"({"exec-oob":"wait","id":"x"}{"exec-oob":1,"id":"y"})");
  EXPECT_EQ(co_await client.line(), R"({"return": {}, "id": "o"})");
  EXPECT_EQ(co_await client.line(), R"({"id": "x", "error": {"class": "GenericError", "desc": )"
                                    R"("The command wait does not support OOB"}})");
  EXPECT_EQ(co_await client.line(), R"({"id": "y", "error": {"class": "GenericError", "desc": )"
                                    R"("QMP input member 'exec-oob' must be a string"}})");
  stage.released.set();
  EXPECT_EQ(co_await client.line(), R"({"return": "waited", "id": "w"})");
  EXPECT_EQ(co_await client.line(), R"({"return": {}, "id": "after"})");
  EXPECT_THAT(stage.notes, testing::UnorderedElementsAre("waiting", "oob", "released", "after"));
  EXPECT_EQ(stage.notes.back(), "after");
}

TEST(QmpSession, OutOfBandOvertakes) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(oob_overtakes(server, stage));
  });
}

Task<void> queue_is_bounded(Server& server, Stage& stage) {
  Client client = server.connect();
  co_await client.negotiate(true);
  // One runs, eight wait; behind them an out-of-band command is not read any more.
  std::string all = R"({"execute":"wait","id":"w"})";
  for (std::size_t i = 0; i < QmpSession::kQueueLength; ++i) all += note(std::to_string(i));
  all += R"({"exec-oob":"note","arguments":{"text":"oob"},"id":"o"})";
  co_await client.send(all);
  // Long after the bytes have arrived, nothing but the first command has begun.
  co_await server.env.sleep(1'000'000'000);
  EXPECT_THAT(stage.notes, ElementsAre("waiting"));
  stage.released.set();
  const auto replies = co_await client.lines(QmpSession::kQueueLength + 2);
  EXPECT_EQ(replies[0], R"({"return": "waited", "id": "w"})");
  EXPECT_THAT(replies, testing::Contains(R"({"return": {}, "id": "o"})"));
}

TEST(QmpSession, QueueIsBounded) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(queue_is_bounded(server, stage));
  });
}

Task<void> one_at_a_time(Server& server, Stage& stage) {
  Client first = server.connect();
  Client second = server.connect();
  co_await first.negotiate();
  co_await second.negotiate();
  co_await first.send(R"({"execute":"wait"})");
  while (stage.waiting == 0) co_await server.env.sleep(1000);
  co_await second.send(note("second"));
  co_await server.env.sleep(1'000'000'000);
  EXPECT_THAT(stage.notes, ElementsAre("waiting"));
  stage.released.set();
  EXPECT_EQ(co_await second.line(), R"({"return": {}, "id": "second"})");
  EXPECT_EQ(co_await first.line(), R"({"return": "waited"})");
  EXPECT_THAT(stage.notes, ElementsAre("waiting", "released", "second"));
}

TEST(QmpSession, CommandsOfAllSessionsRunOneAtATime) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(one_at_a_time(server, stage));
  });
}

Task<void> events(Server& server) {
  Client first = server.connect();
  Client pretty = server.connect(MonitorMode::kControlPretty);
  Client silent = server.connect();
  co_await first.negotiate();
  co_await pretty.until("\r\n}\r\n");
  co_await pretty.send(R"({"execute":"qmp_capabilities"})");
  co_await pretty.until("\r\n}\r\n");
  co_await silent.line();
  co_await first.send(R"({"execute":"emit","arguments":{"event":"STOP"},"id":1})");
  EXPECT_THAT(co_await first.line(),
              testing::MatchesRegex(R"(\{"timestamp": \{"seconds": [0-9]+, "microseconds": )"
                                    R"([0-9]+\}, "event": "STOP"\})"));
  EXPECT_EQ(co_await first.line(), R"({"return": {}, "id": 1})");
  EXPECT_THAT(co_await pretty.until("\r\n}\r\n"),
              testing::MatchesRegex("\\{\r\n    \"timestamp\": \\{\r\n        \"seconds\": [0-9]+,"
                                    "\r\n        \"microseconds\": [0-9]+\r\n    \\},\r\n    "
                                    "\"event\": \"STOP\"\r\n\\}\r\n"));
  EXPECT_EQ(co_await silent.ask(R"({"execute":"qmp_capabilities"})"), R"({"return": {}})");
}

TEST(QmpSession, EventsGoToAllNegotiatedSessionsBeforeTheReply) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(events(server));
  });
}

Task<void> end_of_input(Server& server, Stage& stage) {
  Client leaving = server.connect();
  Client staying = server.connect();
  co_await staying.negotiate();
  co_await leaving.negotiate();
  co_await leaving.send(R"({"execute":"wait"})" + note("never"));
  while (stage.waiting == 0) co_await server.env.sleep(1000);
  leaving.shutdown();
  co_await server.env.sleep(1'000'000'000);
  stage.released.set();
  EXPECT_EQ(co_await staying.ask(note("still here")), R"({"return": {}, "id": "still here"})");
}

TEST(QmpSession, EndOfInputEndsThatSessionOnly) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(end_of_input(server, stage));
  });
}

Task<void> not_reading(Server& server, Stage& stage) {
  Client deaf = server.connect();
  Client other = server.connect();
  co_await deaf.negotiate();
  co_await other.negotiate();
  // Events of a mebibyte each: far more than a link holds.
  for (int i = 0; i < 8; ++i) {
    server.monitor->emit("BIG", json::Object{{"text", std::string(1 << 20, 'x')}});
    EXPECT_THAT(co_await other.line(), HasSubstr("BIG"));
  }
  // Its commands are not read while so much is owed to it.
  co_await deaf.send(note("deaf"));
  EXPECT_EQ(co_await other.ask(note("other")), R"({"return": {}, "id": "other"})");
  EXPECT_THAT(stage.notes, ElementsAre("other"));
  // When it reads again, everything is there, in order.
  for (int i = 0; i < 8; ++i) EXPECT_THAT(co_await deaf.line(), HasSubstr("BIG"));
  EXPECT_EQ(co_await deaf.line(), R"({"return": {}, "id": "deaf"})");
}

TEST(QmpSession, AClientThatDoesNotReadHoldsUpNobody) {
  sim::for_each_seed(4, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    server.run(not_reading(server, stage));
  });
}

Task<void> overflow(Server& server) {
  Client deaf = server.connect();
  Client other = server.connect();
  co_await deaf.negotiate();
  co_await other.negotiate();
  const std::string text(4 << 20, 'x');
  for (std::size_t sent = 0; sent <= OutputQueue::kLimit; sent += text.size()) {
    server.monitor->emit("BIG", json::Object{{"text", text}});
    EXPECT_THAT(co_await other.line(), HasSubstr("BIG"));
  }
  EXPECT_EQ((co_await deaf.rest()).find("BIG") == std::string::npos, false);
  EXPECT_EQ(co_await deaf.line(), "<end>");
  EXPECT_EQ(co_await other.ask(R"({"execute":"query-commands","arguments":{"x":1}})"),
            R"({"error": {"class": "GenericError", "desc": "Parameter 'x' is unexpected"}})");
}

TEST(QmpSession, AClientThatReadsNothingForTooLongIsGivenUp) {
  Server server(1);
  server.env.network().set_options([] {
    sim::SimNetworkOptions options;
    options.at_once = 100;
    options.room = 1 << 20;
    return options;
  }());
  server.run(overflow(server));
}

Task<void> owed_at_the_end(Server& server, std::string& rest, Client& client) {
  co_await client.negotiate();
  for (int i = 0; i < 100; ++i) server.monitor->emit("E", json::Object{{"number", i}});
  co_await server.monitor->stop();
  rest = co_await client.rest();
}

TEST(Monitor, StopSendsWhatIsOwed) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Client client = server.connect();
    std::string rest;
    server.env.run(owed_at_the_end(server, rest, client));
    EXPECT_THAT(rest, HasSubstr(R"("data": {"number": 99}})"));
  });
}

Task<void> stop_while_command_waits(Server& server, Stage& stage, Client& client) {
  co_await client.negotiate();
  co_await client.send(R"({"execute":"wait"})" + note("never"));
  while (stage.waiting == 0) co_await server.env.sleep(1000);
  Gate gate(server.env.executor());
  gate.spawn(server.monitor->stop());
  co_await server.env.sleep(1'000'000);
  stage.released.set();
  co_await gate.close();
  EXPECT_EQ(co_await client.line(), R"({"return": "waited"})");
  EXPECT_EQ(co_await client.line(), "<end>");
  EXPECT_THAT(stage.notes, ElementsAre("waiting", "released"));
}

TEST(Monitor, StopWaitsForTheCommandThatRuns) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    Stage stage(server);
    Client client = server.connect();
    server.env.run(stop_while_command_waits(server, stage, client));
  });
}

Task<void> throttled(Server& server) {
  Client client = server.connect();
  co_await client.negotiate();
  Monitor& monitor = *server.monitor;
  const auto bad = [&monitor](std::string node, int number) {
    monitor.emit("QUORUM_REPORT_BAD",
                 json::Object{{"node-name", std::move(node)}, {"sector-num", number}});
  };
  const auto seen = [](const std::string& line) {
    const auto at = line.find("\"data\": ");
    return line.substr(at + 8, line.size() - at - 9);
  };
  const int64_t begin = server.env.now();
  for (int i = 0; i < 5; ++i) bad("a", i);
  bad("b", 9);
  monitor.emit("OTHER", json::Object{{"n", 1}});
  EXPECT_THAT(seen(co_await client.line()), HasSubstr(R"("sector-num": 0)"));
  EXPECT_THAT(seen(co_await client.line()), HasSubstr(R"("sector-num": 9)"));
  EXPECT_THAT(seen(co_await client.line()), StartsWith(R"({"n": 1})"));
  EXPECT_LT(server.env.now() - begin, 500'000'000);
  // The last of those held back, when the second is over.
  EXPECT_THAT(seen(co_await client.line()), HasSubstr(R"("sector-num": 4)"));
  EXPECT_GE(server.env.now() - begin, 1'000'000'000);
  // A further second must pass before the next.
  bad("a", 10);
  EXPECT_THAT(seen(co_await client.line()), HasSubstr(R"("sector-num": 10)"));
  EXPECT_GE(server.env.now() - begin, 2'000'000'000);
  // After a quiet second it is sent at once again.
  co_await server.env.sleep(3'000'000'000);
  const int64_t later = server.env.now();
  bad("a", 11);
  EXPECT_THAT(seen(co_await client.line()), HasSubstr(R"("sector-num": 11)"));
  EXPECT_LT(server.env.now() - later, 500'000'000);
}

TEST(Monitor, SomeEventsAreLimitedToOneASecond) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    server.run(throttled(server));
  });
}

Task<void> descriptors(Server& server) {
  Client client = server.connect();
  co_await client.negotiate();
  const auto error = [](std::string text) {
    return R"({"error": {"class": "GenericError", "desc": ")" + text + "\"}}";
  };
  const std::string getfd = R"({"execute":"getfd","arguments":{"fdname":"a"}})";
  EXPECT_EQ(co_await client.ask(getfd), error("No file descriptor supplied via SCM_RIGHTS"));
  int pair[2];
  EXPECT_EQ(pipe(pair), 0);
  server.env.network().attach_descriptors(client.stream(), {pair[0], dup(pair[1])});
  EXPECT_EQ(co_await client.ask(getfd), R"({"return": {}})");
  // The second one that came along was closed, the first can be used once.
  EXPECT_EQ(co_await client.ask(getfd), error("No file descriptor supplied via SCM_RIGHTS"));
  auto taken = server.monitor->descriptors().take("a");
  EXPECT_TRUE(taken);
  if (taken) {
    EXPECT_EQ(taken->get(), pair[0]);
  }
  EXPECT_EQ(co_await client.ask(R"({"execute":"closefd","arguments":{"fdname":"a"}})"),
            error("File descriptor named 'a' not found"));
  close(pair[1]);
}

TEST(Monitor, DescriptorsAreTakenFromTheBytesOfTheCommand) {
  Server server(1);
  server.run(descriptors(server));
}

Task<void> endpoint_again(Server& server) {
  const SocketAddress address = UnixAddress{"/monitor"};
  EndpointOptions options;
  options.address = address;
  options.server = true;
  options.wait = false;
  auto endpoint = std::make_unique<Endpoint>(server.env, options);
  EXPECT_TRUE(co_await endpoint->open());
  EXPECT_EQ(endpoint->description(), "disconnected:unix:/monitor,server=on");
  Endpoint& same = *endpoint;
  server.monitor->serve(std::move(endpoint), MonitorMode::kControl);
  for (int i = 0; i < 3; ++i) {
    Client client(*(co_await server.env.connect(address)));
    EXPECT_EQ(co_await client.line(), kGreeting);
    EXPECT_EQ(same.description(), "unix:/monitor,server=on");
    // Who comes second waits until the first has gone.
    Client next(*(co_await server.env.connect(address)));
    EXPECT_THAT(co_await client.ask(R"({"execute":"query-version"})"), HasSubstr("Expecting"));
    client.shutdown();
    EXPECT_EQ(co_await next.line(), kGreeting);
    next.shutdown();
  }
}

TEST(Monitor, AServerAcceptsAgain) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    server.run(endpoint_again(server));
  });
}

Task<void> endpoint_reconnects(Server& server) {
  const SocketAddress address = UnixAddress{"/peer"};
  EndpointOptions options;
  options.address = address;
  auto once = std::make_unique<Endpoint>(server.env, options);
  const auto refused = co_await once->open();
  EXPECT_EQ(refused.error().description, "Failed to connect to '/peer': No such file or directory");
  options.reconnect_seconds = 2;
  auto endpoint = std::make_unique<Endpoint>(server.env, options);
  EXPECT_TRUE(co_await endpoint->open());
  server.monitor->serve(std::move(endpoint), MonitorMode::kControl);
  auto listener = *(co_await server.env.listen(address));
  for (int i = 0; i < 2; ++i) {
    Client peer(*(co_await listener->accept()));
    EXPECT_EQ(co_await peer.line(), kGreeting);
    peer.shutdown();
  }
  listener->close();
}

TEST(Monitor, AClientEndpointConnectsAgain) {
  sim::for_each_seed(kSeeds, [](uint64_t seed) {
    Server server(seed);
    server.run(endpoint_reconnects(server));
  });
}

}  // namespace
}  // namespace blockbed::test
