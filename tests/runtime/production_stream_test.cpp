#include "block/runtime/production_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "block/runtime/gate.h"
#include "block/runtime/production_env.h"

namespace blockbed {
namespace {

std::span<std::byte> bytes_of(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}
IoVector io_of(std::string& text) { return IoVector(text.data(), text.size()); }

// A bare chroot has no /etc/hosts.
bool resolves(const char* host) {
  addrinfo* found = nullptr;
  if (::getaddrinfo(host, nullptr, nullptr, &found) != 0) return false;
  ::freeaddrinfo(found);
  return true;
}

class ProductionStreams : public ::testing::Test {
 public:
  ProductionStreams() {
    std::string pattern = ::testing::TempDir() + "/blockbed-stream-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~ProductionStreams() override { std::filesystem::remove_all(directory_); }
  SocketAddress unix_address() const { return UnixAddress{directory_ + "/sock", false}; }

  std::string directory_;
  ProductionEnv env_;
};

using T = ProductionStreams;

#define RUN(...)                               \
  do {                                         \
    const auto coroutine = __VA_ARGS__;        \
    env_.run_until_complete(coroutine(*this)); \
  } while (false)

InetAddress inet(std::string host, std::string port) {
  InetAddress result;
  result.host = std::move(host);
  result.port = std::move(port);
  return result;
}

struct Ends {
  std::unique_ptr<Stream> client, server;
};

Task<void> accept_into(Listener& listener, std::unique_ptr<Stream>& into) {
  auto stream = co_await listener.accept();
  EXPECT_TRUE(stream.has_value());
  if (stream) into = std::move(*stream);
}

Task<Ends> connected(Env& env, Listener& listener) {
  Ends ends;
  Gate gate(env.executor());
  gate.spawn(accept_into(listener, ends.server));
  auto client = co_await env.connect(listener.address());
  EXPECT_TRUE(client.has_value()) << (client ? "" : strerror_text(client.error()));
  if (client) {
    ends.client = std::move(*client);
  } else {
    listener.close();
  }
  co_await gate.close();
  co_return ends;
}

Task<Ends> pair(Env& env) {
  int sockets[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  auto one = env.adopt_stream(sockets[0], sockets[0]);
  auto two = env.adopt_stream(sockets[1], sockets[1]);
  co_return Ends{std::move(*one), std::move(*two)};
}

Task<std::string> read_to_end(Stream& stream) {
  std::string all;
  std::string part(65536, '\0');
  for (;;) {
    const Result<std::size_t> got = co_await stream.read_some(bytes_of(part));
    EXPECT_TRUE(got.has_value());
    if (!got || *got == 0) co_return all;
    all.append(part, 0, *got);
  }
}

Task<void> send(Stream& stream, std::string text) {
  const auto sent = co_await stream.write_all(io_of(text));
  EXPECT_TRUE(sent.has_value()) << (sent ? "" : strerror_text(sent.error()));
}

Task<void> echo(Env& env, Listener& listener) {
  Ends ends = co_await connected(env, listener);
  if (!ends.client || !ends.server) co_return;
  co_await send(*ends.client, "hello");
  std::string got(100, '\0');
  const auto count = co_await ends.server->read_some(bytes_of(got));
  EXPECT_EQ(got.substr(0, *count), "hello");
  co_await send(*ends.server, "world");
  ends.server->shutdown();
  EXPECT_EQ(co_await read_to_end(*ends.client), "world");
}

TEST_F(ProductionStreams, UnixSocketsByPath) {
  RUN([](T& t) -> Task<void> {
    auto listener = co_await t.env_.listen(t.unix_address());
    EXPECT_EQ((*listener)->address(), t.unix_address());
    co_await echo(t.env_, **listener);
    // A path that is there is replaced.
    auto second = co_await t.env_.listen(t.unix_address());
    EXPECT_TRUE(second.has_value());
    co_await echo(t.env_, **second);
    (*second)->close();
    EXPECT_FALSE(std::filesystem::exists(t.directory_ + "/sock"));
    const auto refused = co_await t.env_.connect(t.unix_address());
    EXPECT_EQ(refused.error().number(), ENOENT);
  });
}

TEST_F(ProductionStreams, UnixSocketsByAbstractName) {
  RUN([](T& t) -> Task<void> {
    const SocketAddress address = UnixAddress{t.directory_ + "/abstract", true};
    auto listener = co_await t.env_.listen(address);
    EXPECT_TRUE(listener.has_value());
    EXPECT_FALSE(std::filesystem::exists(t.directory_ + "/abstract"));
    co_await echo(t.env_, **listener);
    const auto taken = co_await t.env_.listen(address);
    EXPECT_EQ(taken.error().number(), EADDRINUSE);
    (*listener)->close();
    const auto refused = co_await t.env_.connect(address);
    EXPECT_EQ(refused.error().number(), ECONNREFUSED);
  });
}

TEST_F(ProductionStreams, UnixPathsThatDoNotFit) {
  RUN([](T& t) -> Task<void> {
    // The kernel's place for a path has 108 bytes.
    for (const bool abstract : {false, true}) {
      const UnixAddress longer{std::string(abstract ? 108 : 109, 'x'), abstract};
      EXPECT_EQ((co_await t.env_.listen(longer)).error().number(), ENAMETOOLONG);
      EXPECT_EQ((co_await t.env_.connect(longer)).error().number(), ENAMETOOLONG);
    }
    EXPECT_EQ((co_await t.env_.listen(UnixAddress{})).error().number(), EINVAL);
    auto fits = co_await t.env_.listen(UnixAddress{std::string(107, 'y'), true});
    EXPECT_TRUE(fits.has_value());
    if (fits) co_await echo(t.env_, **fits);
  });
}

TEST_F(ProductionStreams, TcpOnEveryAddressOfAName) {
  RUN([](T& t) -> Task<void> {
    for (const char* host : {"127.0.0.1", "localhost", ""}) {
      auto listener = co_await t.env_.listen(inet(host, "0"));
      if (!listener && !resolves(host)) continue;
      EXPECT_TRUE(listener.has_value());
      if (!listener) continue;
      const auto address = std::get<InetAddress>((*listener)->address());
      EXPECT_NE(address.port, "0");
      InetAddress target = address;
      target.host = "127.0.0.1";
      Gate gate(t.env_.executor());
      std::unique_ptr<Stream> accepted;
      gate.spawn(accept_into(**listener, accepted));
      auto client = co_await t.env_.connect(target);
      EXPECT_TRUE(client.has_value());
      co_await gate.close();
      const auto peer = std::get<InetAddress>((*client)->peer());
      EXPECT_EQ(peer.host, "127.0.0.1");
      EXPECT_EQ(peer.port, address.port);
      co_await send(**client, "x");
    }
  });
}

TEST_F(ProductionStreams, TcpByIpv6) {
  RUN([](T& t) -> Task<void> {
    auto listener = co_await t.env_.listen(inet("::1", "0"));
    if (!listener) {
      EXPECT_TRUE(listener.error().number() == EADDRNOTAVAIL ||
                  listener.error().number() == EAFNOSUPPORT);
      co_return;
    }
    co_await echo(t.env_, **listener);
    InetAddress only_v4 = inet("::1", "0");
    only_v4.ipv6 = false;
    EXPECT_FALSE((co_await t.env_.listen(only_v4)).has_value());
    InetAddress neither = inet("localhost", "0");
    neither.ipv4 = neither.ipv6 = false;
    EXPECT_EQ((co_await t.env_.listen(neither)).error().number(), EINVAL);
  });
}

TEST_F(ProductionStreams, TcpTriesARangeOfPorts) {
  RUN([](T& t) -> Task<void> {
    auto first = co_await t.env_.listen(inet("127.0.0.1", "0"));
    const auto taken = std::get<InetAddress>((*first)->address());
    EXPECT_EQ((co_await t.env_.listen(taken)).error().number(), EADDRINUSE);
    InetAddress range = taken;
    range.to = static_cast<uint16_t>(std::min(std::stoi(taken.port) + 50, 65535));
    auto second = co_await t.env_.listen(range);
    EXPECT_TRUE(second.has_value());
    EXPECT_NE(std::get<InetAddress>((*second)->address()).port, taken.port);
    co_await echo(t.env_, **second);
    (*first)->close();
    EXPECT_EQ((co_await t.env_.connect(taken)).error().number(), ECONNREFUSED);
  });
}

TEST_F(ProductionStreams, TcpNamesThatDoNotExist) {
  RUN([](T& t) -> Task<void> {
    const auto failed = co_await t.env_.connect(inet("no-such-host.invalid", "1"));
    EXPECT_FALSE(failed.has_value());
    const auto service = co_await t.env_.connect(inet("127.0.0.1", "no-such-service"));
    EXPECT_EQ(service.error().number(), EADDRNOTAVAIL);
  });
}

// `ends`: where the ranges end of which the text is sent; the last one ends with it.
Task<void> send_long(Stream& stream, const std::string& text, std::vector<std::size_t> ends) {
  IoVector data;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    data.append(const_cast<char*>(text.data()) + begin, end - begin);
    begin = end;
  }
  EXPECT_TRUE((co_await stream.write_all(data)).has_value());
  stream.shutdown();
}

TEST_F(ProductionStreams, LongGatheredWritesArriveWhole) {
  RUN([](T& t) -> Task<void> {
    std::string text;
    while (text.size() < 5'000'000) text += std::to_string(text.size()) + ",";
    // One range; a short one that goes ahead of a long one, as a header does; more than one system
    // call takes.
    std::vector<std::vector<std::size_t>> cuts = {{text.size()},
                                                  {text.size() / 2, text.size()},
                                                  {28, text.size()},
                                                  {28, 50'000, 50'016, text.size()}};
    auto& many = cuts.emplace_back();
    for (std::size_t i = 1; i <= 3000; ++i) many.push_back(text.size() * i / 3000);
    for (const auto& cut : cuts) {
      Ends ends = co_await pair(t.env_);
      Gate gate(t.env_.executor());
      gate.spawn(send_long(*ends.client, text, cut));
      EXPECT_TRUE(co_await read_to_end(*ends.server) == text);
      co_await gate.close();
    }
  });
}

TEST_F(ProductionStreams, TryReadTakesOnlyWhatIsThere) {
  RUN([](T& t) -> Task<void> {
    Ends ends = co_await pair(t.env_);
    std::string got(100, '\0');
    EXPECT_EQ(ends.server->try_read(bytes_of(got)).error().number(), EAGAIN);
    co_await send(*ends.client, "abc");
    EXPECT_EQ(*ends.server->try_read(bytes_of(got)), 3U);
    EXPECT_EQ(ends.server->try_read(bytes_of(got)).error().number(), EAGAIN);
    ends.client.reset();
    EXPECT_EQ(*ends.server->try_read(bytes_of(got)), 0U);
  });
}

Task<void> note_read(Stream& stream, int& outcome) {
  std::string got(10, '\0');
  const auto count = co_await stream.read_some(bytes_of(got));
  outcome = count ? static_cast<int>(*count) : -count.error().number();
}

Task<void> note_write(Stream& stream, std::size_t length, int& outcome) {
  std::string text(length, 'x');
  const auto sent = co_await stream.write_all(io_of(text));
  outcome = sent ? 1 : -sent.error().number();
}

TEST_F(ProductionStreams, ShutdownEndsWaitingReadersAndWriters) {
  RUN([](T& t) -> Task<void> {
    Ends ends = co_await pair(t.env_);
    Gate gate(t.env_.executor());
    int read = 1, write = 0;
    gate.spawn(note_read(*ends.client, read));
    gate.spawn(note_write(*ends.client, 10'000'000, write));
    EXPECT_EQ(gate.inside(), 2U);
    ends.client->shutdown();
    co_await gate.close();
    EXPECT_TRUE(read == 0 || read == -ECANCELED) << read;
    EXPECT_TRUE(write == -EPIPE || write == -ECANCELED) << write;
    int later = 1;
    co_await note_write(*ends.client, 1, later);
    EXPECT_LT(later, 0);
    ends.client->shutdown();
  });
}

TEST_F(ProductionStreams, APeerThatVanishesIsAnErrorAndNoSignal) {
  RUN([](T& t) -> Task<void> {
    Ends ends = co_await pair(t.env_);
    Gate gate(t.env_.executor());
    int write = 0;
    gate.spawn(note_write(*ends.client, 10'000'000, write));
    ends.server.reset();
    co_await gate.close();
    EXPECT_TRUE(write == -EPIPE || write == -ECONNRESET) << write;
  });
}

void send_descriptors(int socket, const std::string& text, const std::vector<int>& descriptors) {
  iovec range = {const_cast<char*>(text.data()), text.size()};
  std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &range;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
  std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size() * sizeof(int));
  ASSERT_EQ(::sendmsg(socket, &message, 0), static_cast<ssize_t>(text.size()));
}

std::size_t open_descriptors() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

TEST_F(ProductionStreams, ReceivesDescriptors) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  int pipes[2];
  ASSERT_EQ(::pipe2(pipes, O_CLOEXEC), 0);
  const auto body = [](T& t, int ours, int theirs, int* p) -> Task<void> {
    auto stream = t.env_.adopt_stream(ours, ours);
    send_descriptors(theirs, "one", {p[1]});
    std::string got(100, '\0');
    EXPECT_EQ(*co_await (*stream)->read_some(bytes_of(got)), 3U);
    auto descriptors = (*stream)->take_descriptors();
    EXPECT_EQ(descriptors.size(), 1U);
    EXPECT_TRUE((*stream)->take_descriptors().empty());
    EXPECT_EQ(::fcntl(descriptors[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(::write(descriptors[0], "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(p[0], &byte, 1), 1);
    ::close(descriptors[0]);

    // One more than are kept; those that nobody takes are closed with the stream.
    const std::size_t before = open_descriptors();
    const std::vector<int> many(ProductionStream::kMaxDescriptors, p[1]);
    send_descriptors(theirs, "many", many);
    EXPECT_EQ(*co_await (*stream)->read_some(bytes_of(got)), 4U);
    send_descriptors(theirs, "more", {p[1]});
    EXPECT_EQ(*co_await (*stream)->read_some(bytes_of(got)), 4U);
    EXPECT_EQ(open_descriptors(), before + ProductionStream::kMaxDescriptors);
    stream->reset();
    EXPECT_EQ(open_descriptors(), before - 1);
  };
  env_.run_until_complete(body(*this, sockets[0], sockets[1], pipes));
  ::close(sockets[1]);
  ::close(pipes[0]);
  ::close(pipes[1]);
}

TEST_F(ProductionStreams, AdoptsPipesAndGivesThemBackAsTheyWere) {
  int input[2], output[2];
  ASSERT_EQ(::pipe2(input, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(output, O_CLOEXEC), 0);
  const int kept = ::fcntl(output[1], F_DUPFD_CLOEXEC, 0);
  const auto body = [](T& t, int* in, int* out) -> Task<void> {
    auto stream = t.env_.adopt_stream(in[0], out[1]);
    EXPECT_TRUE(stream.has_value());
    Gate gate(t.env_.executor());
    int read = 0;
    gate.spawn(note_read(**stream, read));
    EXPECT_EQ(::write(in[1], "abc", 3), 3);
    co_await gate.wait_idle();
    EXPECT_EQ(read, 3);
    co_await send(**stream, "answer");
    char answer[10];
    EXPECT_EQ(::read(out[0], answer, sizeof answer), 6);
    // More than a pipe holds: the writer waits until it is shut down.
    int write = 0;
    gate.spawn(note_write(**stream, 1 << 20, write));
    gate.spawn(note_read(**stream, read));
    (*stream)->shutdown();
    co_await gate.close();
    EXPECT_EQ(write, -ECANCELED);
    EXPECT_EQ(read, -ECANCELED);
  };
  env_.run_until_complete(body(*this, input, output));
  EXPECT_EQ(::fcntl(kept, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(input[0], F_GETFD), -1);
  ::close(kept);
  ::close(input[1]);
  ::close(output[0]);
}

TEST_F(ProductionStreams, ReadsARegularFileAsStandardInput) {
  const std::string path = directory_ + "/script";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::write(descriptor, "commands", 8), 8);
  ::lseek(descriptor, 0, SEEK_SET);
  const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  const auto body = [](T& t, int in, int out) -> Task<void> {
    auto stream = t.env_.adopt_stream(in, out);
    EXPECT_EQ(co_await read_to_end(**stream), "commands");
    co_await send(**stream, "ignored");
  };
  env_.run_until_complete(body(*this, descriptor, null));
}

TEST_F(ProductionStreams, AdoptsWhatListens) {
  RUN([](T& t) -> Task<void> {
    const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(t.env_.adopt_listener(descriptor).error().number(), EINVAL);
    EXPECT_EQ(t.env_.adopt_listener(-1).error().number(), EBADF);
    EXPECT_EQ(t.env_.adopt_stream(-1, -1).error().number(), EBADF);
    EXPECT_EQ(::listen(descriptor, 5), 0);
    auto listener = co_await t.env_.listen(DescriptorAddress{descriptor});
    EXPECT_TRUE(listener.has_value());
    co_await echo(t.env_, **listener);
  });
}

TEST_F(ProductionStreams, CloseEndsAWaitingAccept) {
  RUN([](T& t) -> Task<void> {
    for (const SocketAddress& address : {t.unix_address(), SocketAddress(inet("", "0"))}) {
      auto listener = co_await t.env_.listen(address);
      int error = 0;
      const auto accept = [](Listener& l, int& e) -> Task<void> {
        const auto got = co_await l.accept();
        e = got ? -1 : got.error().number();
      };
      Gate gate(t.env_.executor());
      gate.spawn(accept(**listener, error));
      (*listener)->close();
      co_await gate.close();
      EXPECT_EQ(error, ECANCELED);
      (*listener)->close();
    }
  });
}

TEST_F(ProductionStreams, ManyClientsAtOnce) {
  RUN([](T& t) -> Task<void> {
    auto listener = co_await t.env_.listen(t.unix_address());
    constexpr int kClients = 100;
    std::vector<std::unique_ptr<Stream>> served;
    const auto serve = [](Listener& l, std::vector<std::unique_ptr<Stream>>& all) -> Task<void> {
      for (int i = 0; i < kClients; ++i) {
        auto stream = co_await l.accept();
        EXPECT_TRUE(stream.has_value());
        co_await send(**stream, std::to_string(i));
        (*stream)->shutdown();
        all.push_back(std::move(*stream));
      }
    };
    const auto ask = [](Env& env, SocketAddress address, int& answers) -> Task<void> {
      auto stream = co_await env.connect(address);
      EXPECT_TRUE(stream.has_value());
      EXPECT_FALSE((co_await read_to_end(**stream)).empty());
      ++answers;
    };
    int answers = 0;
    Gate gate(t.env_.executor());
    gate.spawn(serve(**listener, served));
    for (int i = 0; i < kClients; ++i) gate.spawn(ask(t.env_, t.unix_address(), answers));
    co_await gate.close();
    EXPECT_EQ(answers, kClients);
  });
}

// With no descriptor left the listener waits, and goes on when there are some again.
TEST_F(ProductionStreams, AcceptOutlastsALackOfDescriptors) {
  RUN([](T& t) -> Task<void> {
    auto listener = co_await t.env_.listen(t.unix_address());
    const int client = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, (t.directory_ + "/sock").c_str());
    EXPECT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    co_await t.env_.sleep(1);  // the loop's own descriptors are there now
    rlimit before;
    ::getrlimit(RLIMIT_NOFILE, &before);
    rlimit none = before;
    none.rlim_cur = 3;
    Gate gate(t.env_.executor());
    std::unique_ptr<Stream> accepted;
    ::setrlimit(RLIMIT_NOFILE, &none);
    gate.spawn(accept_into(**listener, accepted));
    co_await t.env_.sleep(10'000'000);
    EXPECT_EQ(accepted, nullptr);
    ::setrlimit(RLIMIT_NOFILE, &before);
    co_await gate.close();
    EXPECT_NE(accepted, nullptr);
    ::close(client);
  });
}

TEST_F(ProductionStreams, TcpSendsWithoutDelay) {
  RUN([](T& t) -> Task<void> {
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::listen(server, 1), 0);
    sockaddr_in name = {};
    socklen_t length = sizeof name;
    ::getsockname(server, reinterpret_cast<sockaddr*>(&name), &length);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&name), length), 0);
    auto stream = t.env_.adopt_stream(client, client);
    int on = 0;
    length = sizeof on;
    EXPECT_EQ(::getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, &length), 0);
    EXPECT_NE(on, 0);
    ::close(server);
    co_return;
  });
}

}  // namespace
}  // namespace blockbed
