#include "block/sim/sim_network.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"
#include "tests/support/seed_runner.h"

namespace blockbed::sim {
namespace {

std::span<std::byte> bytes_of(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}
IoVector io_of(std::string& text) { return IoVector(text.data(), text.size()); }

// Everything until the peer ends its side, or the error.
Task<Result<std::string>> read_to_end(Stream& stream, std::size_t* reads = nullptr) {
  std::string all;
  std::string part(4096, '\0');
  for (;;) {
    const Result<std::size_t> got = co_await stream.read_some(bytes_of(part));
    if (!got) co_return io_error(got.error());
    if (*got == 0) co_return all;
    all.append(part, 0, *got);
    if (reads != nullptr) ++*reads;
  }
}

Task<void> send_and_end(Stream& stream, std::string text) {
  EXPECT_TRUE((co_await stream.write_all(io_of(text))).has_value());
  stream.shutdown();
}

std::string long_text(std::size_t length) {
  std::string text;
  while (text.size() < length) text += std::to_string(text.size()) + " ";
  return text;
}

Task<std::size_t> transfer(SimEnv& env, std::string text) {
  auto [ours, theirs] = env.network().make_pair();
  Gate gate(env.executor());
  gate.spawn(send_and_end(*ours, text));
  std::size_t reads = 0;
  const Result<std::string> got = co_await read_to_end(*theirs, &reads);
  EXPECT_TRUE(got.has_value());
  if (got) EXPECT_EQ(*got, text);
  co_await gate.close();
  co_return reads;
}

TEST(SimNetwork, BytesArriveInOrderInPiecesOfAnySize) {
  std::size_t most = 0, least = SIZE_MAX;
  for_each_seed(50, [&](uint64_t seed) {
    SimEnv env(seed);
    const std::size_t reads = env.run(transfer(env, long_text(1000)));
    most = std::max(most, reads);
    least = std::min(least, reads);
  });
  EXPECT_LE(least, 2U);
  EXPECT_GT(most, 8U);
}

TEST(SimNetwork, AWriterWaitsForRoom) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(transfer(env, long_text(1'000'000)));
  });
}

Task<void> read_until_shut(Stream& stream, int& error) {
  std::string into(10, '\0');
  const Result<std::size_t> got = co_await stream.read_some(bytes_of(into));
  error = got ? -1 : got.error().number();
}

Task<void> shut_a_waiting_reader(SimEnv& env) {
  auto [ours, theirs] = env.network().make_pair();
  Gate gate(env.executor());
  int error = 0;
  gate.spawn(read_until_shut(*ours, error));
  co_await env.sleep(1'000'000);
  EXPECT_EQ(error, 0);
  ours->shutdown();
  co_await gate.close();
  EXPECT_EQ(error, ECANCELED);
  const Result<std::string> other = co_await read_to_end(*theirs);
  EXPECT_TRUE(other.has_value() && other->empty());
  std::string text = "late";
  EXPECT_EQ((co_await ours->write_all(io_of(text))).error().number(), ECANCELED);
}

TEST(SimNetwork, ShutdownEndsAWaitingReader) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(shut_a_waiting_reader(env));
  });
}

Task<void> write_to_nobody(SimEnv& env) {
  auto [ours, theirs] = env.network().make_pair();
  theirs.reset();
  std::string text = "hello";
  EXPECT_EQ((co_await ours->write_all(io_of(text))).error().number(), EPIPE);
  const Result<std::string> got = co_await read_to_end(*ours);
  EXPECT_TRUE(got.has_value() && got->empty());
}

TEST(SimNetwork, WritingToAPeerThatIsGoneFails) {
  SimEnv env(1);
  env.run(write_to_nobody(env));
}

Task<void> serve_one(Listener& listener, std::string& got) {
  auto stream = co_await listener.accept();
  EXPECT_TRUE(stream.has_value());
  auto text = co_await read_to_end(**stream);
  if (text) got = *text;
}

Task<void> connect_and_send(SimEnv& env, SocketAddress address) {
  auto listener = co_await env.listen(address);
  EXPECT_TRUE(listener.has_value());
  std::string got;
  {
    Gate gate(env.executor());
    gate.spawn(serve_one(**listener, got));
    auto stream = co_await env.connect((*listener)->address());
    EXPECT_TRUE(stream.has_value());
    co_await send_and_end(**stream, "good day");
    co_await gate.close();
  }
  EXPECT_EQ(got, "good day");
  (*listener)->close();
  EXPECT_FALSE((co_await env.connect((*listener)->address())).has_value());
}

TEST(SimNetwork, ListensAndConnects) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(connect_and_send(env, UnixAddress{"/sock", false}));
    env.run(connect_and_send(env, UnixAddress{"name", true}));
    env.run(connect_and_send(env, InetAddress{"localhost", "0", {}, {}, {}}));
    env.run(connect_and_send(env, InetAddress{"localhost", "10809", {}, {}, {}}));
  });
}

Task<void> close_while_accepting(SimEnv& env) {
  auto listener = co_await env.listen(UnixAddress{"/sock", false});
  Gate gate(env.executor());
  int error = 0;
  const auto accept = [](Listener& l, int& e) -> Task<void> {
    const auto got = co_await l.accept();
    e = got ? -1 : got.error().number();
  };
  gate.spawn(accept(**listener, error));
  co_await env.executor().yield();
  (*listener)->close();
  co_await gate.close();
  EXPECT_EQ(error, ECANCELED);
}

TEST(SimNetwork, CloseEndsAWaitingAccept) {
  SimEnv env(1);
  env.run(close_while_accepting(env));
}

Task<void> ports(SimEnv& env) {
  const InetAddress taken{"localhost", "10809", {}, {}, {}};
  auto first = co_await env.listen(taken);
  EXPECT_EQ((co_await env.listen(taken)).error().number(), EADDRINUSE);
  InetAddress range = taken;
  range.to = 10811;
  auto second = co_await env.listen(range);
  EXPECT_EQ(std::get<InetAddress>((*second)->address()).port, "10810");
}

TEST(SimNetwork, TriesPortsOfARange) {
  SimEnv env(1);
  env.run(ports(env));
}

Task<void> send_ignoring_errors(Stream& stream, std::string text, bool& failed) {
  failed = !(co_await stream.write_all(io_of(text))).has_value();
}

Task<void> cut_link(SimEnv& env) {
  SimNetworkOptions options;
  options.cut = 100;
  options.cut_below = 10'000;
  env.network().set_options(options);
  auto [ours, theirs] = env.network().make_pair();
  Gate gate(env.executor());
  bool failed = false;
  gate.spawn(send_ignoring_errors(*ours, std::string(20'000, 'x'), failed));
  const Result<std::string> got = co_await read_to_end(*theirs);
  EXPECT_EQ(got.error().number(), ECONNRESET);
  co_await gate.close();
  EXPECT_TRUE(failed);
}

TEST(SimNetwork, LinksAreCut) {
  for_each_seed(20, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(cut_link(env));
  });
}

Task<void> pass_descriptor(SimEnv& env) {
  auto [ours, theirs] = env.network().make_pair();
  const int descriptor = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  env.network().attach_descriptors(*ours, {descriptor});
  co_await send_and_end(*ours, "with a descriptor");
  EXPECT_TRUE(theirs->take_descriptors().empty());
  EXPECT_TRUE((co_await read_to_end(*theirs)).has_value());
  const std::vector<int> got = theirs->take_descriptors();
  EXPECT_EQ(got, std::vector<int>{descriptor});
  ::close(descriptor);
}

TEST(SimNetwork, PassesDescriptors) {
  for_each_seed(10, [](uint64_t seed) {
    SimEnv env(seed);
    env.run(pass_descriptor(env));
  });
}

}  // namespace
}  // namespace blockbed::sim
