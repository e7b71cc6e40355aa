// Why the NBD server could not listen, in the words of QEMU 7.2.22, on real sockets. No name is
// resolved: all hosts are numbers.
#include <gtest/gtest.h>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/server.h"
#include "block/graph/graph.h"
#include "block/runtime/production_env.h"
#include "tests/support/memory_driver.h"

namespace blockbed::nbd {
namespace {

struct Stack {
  explicit Stack(ProductionEnv& env)
      : graph(env, events, drivers), exports(graph), server(exports) {}
  blockbed::test::RecordedEvents events;
  DriverRegistry drivers;
  Graph graph;
  ExportRegistry exports;
  NbdServer server;
};

class ListenTest : public testing::Test {
 public:
  ListenTest() : stack(env) {}
  ~ListenTest() override { env.run_until_complete(stack.graph.shutdown()); }

  std::string start(SocketAddress address) {
    NbdServerSettings settings;
    settings.address = std::move(address);
    const Expected<void> started = env.run_until_complete(stack.server.start(std::move(settings)));
    return started ? "" : started.error().description;
  }
  void stop() { EXPECT_TRUE(env.run_until_complete(stack.server.stop())); }

  ProductionEnv env;
  Stack stack;
};

InetAddress inet(std::string host, std::string port) {
  InetAddress address;
  address.host = std::move(host);
  address.port = std::move(port);
  return address;
}

TEST_F(ListenTest, PortsAndHosts) {
  EXPECT_EQ(start(inet("127.0.0.1", "abc")),
            "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype");
  EXPECT_EQ(start(inet("192.0.2.1", "10809")),
            "Failed to bind socket: Cannot assign requested address");

  ASSERT_EQ(start(inet("127.0.0.1", "0")), "");
  const auto listening = std::get<InetAddress>(*stack.server.address());
  ProductionEnv other_env;
  Stack other(other_env);
  NbdServerSettings settings;
  settings.address = inet("127.0.0.1", listening.port);
  const Expected<void> second =
      other_env.run_until_complete(other.server.start(std::move(settings)));
  EXPECT_FALSE(second);
  EXPECT_EQ(second.error().description, "Failed to find an available port: Address already in use");
  other_env.run_until_complete(other.graph.shutdown());
  stop();
}

TEST_F(ListenTest, Families) {
  InetAddress v4 = inet("127.0.0.1", "0");
  v4.ipv4 = v4.ipv6 = false;
  EXPECT_EQ(start(v4), "Cannot disable IPv4 and IPv6 at same time");
  for (const bool by_refusal : {false, true}) {
    v4.ipv4 = v4.ipv6 = std::nullopt;
    (by_refusal ? v4.ipv4 : v4.ipv6) = !by_refusal;
    EXPECT_EQ(
        start(v4),
        "address resolution failed for 127.0.0.1:0: Address family for hostname not supported");
    InetAddress v6 = inet("::1", "0");
    (by_refusal ? v6.ipv6 : v6.ipv4) = !by_refusal;
    EXPECT_EQ(start(v6),
              "address resolution failed for ::1:0: Address family for hostname not supported");
  }
  v4.ipv4 = v4.ipv6 = true;
  EXPECT_EQ(start(v4), "");
  stop();
}

TEST_F(ListenTest, UnixPaths) {
  EXPECT_EQ(start(UnixAddress{"/nonexistent/x"}),
            "Failed to bind socket to /nonexistent/x: No such file or directory");
  // One byte too many, then the longest.
  const std::string folder = testing::TempDir();
  const std::string longest = folder + std::string(108 - folder.size(), 'a');
  EXPECT_EQ(start(UnixAddress{longest + "a"}), "UNIX socket path '" + longest + "a' is too long");
  EXPECT_EQ(start(UnixAddress{longest}), "");
  stop();
}

}  // namespace
}  // namespace blockbed::nbd
