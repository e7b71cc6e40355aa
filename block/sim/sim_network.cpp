#include "block/sim/sim_network.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>

#include "block/runtime/alarm_heap.h"
#include "block/runtime/assert.h"
#include "block/runtime/sync.h"
#include "block/sim/sim_env.h"

namespace blockbed::sim {

// One direction of a connection.
struct SimPipe {
  struct Segment {
    int64_t arrival;
    std::vector<std::byte> bytes;
    std::size_t taken = 0;
    std::vector<int> descriptors = {};
  };

  std::deque<Segment> segments;
  std::size_t under_way = 0;
  // The writer has ended its side: the reader sees it after the last segment.
  bool ended = false;
  bool reader_gone = false;
  WaitQueue arrivals;
  WaitQueue room;
  // The reader's wait for the first segment's arrival.
  Alarm alarm;

  explicit SimPipe(Executor& executor) : arrivals(executor), room(executor) {}
  ~SimPipe() {
    for (const Segment& segment : segments) {
      for (const int descriptor : segment.descriptors) close_descriptor(descriptor);
    }
  }

  void wake_reader(SimEnv& env) {
    arrivals.wake_all();
    if (alarm.armed()) {
      env.disarm(alarm);
      env.executor().post(alarm.waiter);
    }
  }
};

struct SimLink {
  SimPipe pipes[2];
  bool cut = false;
  // Bytes in both directions until it is cut.
  uint64_t cut_left = UINT64_MAX;

  explicit SimLink(Executor& executor) : pipes{SimPipe(executor), SimPipe(executor)} {}

  void cut_now(SimEnv& env) {
    if (cut) return;
    cut = true;
    env.note("cut");
    for (SimPipe& pipe : pipes) {
      pipe.wake_reader(env);
      pipe.room.wake_all();
    }
  }
};

class SimStream final : public Stream {
 public:
  SimStream(SimNetwork& network, std::shared_ptr<SimLink> link, int side, SocketAddress peer)
      : network_(network), link_(std::move(link)), side_(side), peer_(std::move(peer)) {}
  ~SimStream() override {
    end();
    incoming().reader_gone = true;
    incoming().room.wake_all();
    for (const int descriptor : received_) close_descriptor(descriptor);
    for (const int descriptor : attached_) close_descriptor(descriptor);
  }

  Task<Result<std::size_t>> read_some(std::span<std::byte> into) override {
    BB_ASSERT(!into.empty());
    SimPipe& pipe = incoming();
    for (;;) {
      const Result<std::size_t> got = try_read(into);
      if (got || got.error().number() != EAGAIN) co_return got;
      if (pipe.segments.empty()) {
        co_await pipe.arrivals.wait();
      } else {
        co_await Arrival{network_.env_, pipe};
      }
    }
  }

  Result<std::size_t> try_read(std::span<std::byte> into) override {
    BB_ASSERT(!into.empty());
    if (shut_) return io_error(ECANCELED);
    if (link_->cut) return io_error(ECONNRESET);
    SimPipe& pipe = incoming();
    std::size_t there = 0;
    for (const SimPipe::Segment& segment : pipe.segments) {
      if (segment.arrival > network_.env_.now()) break;
      there += segment.bytes.size() - segment.taken;
    }
    if (there == 0) {
      if (pipe.segments.empty() && pipe.ended) return std::size_t{0};
      return io_error(EAGAIN);
    }
    std::size_t wanted = std::min(there, into.size());
    if (network_.random_.percent(50)) wanted = 1 + network_.random_.below(wanted);
    std::size_t done = 0;
    while (done < wanted) {
      SimPipe::Segment& segment = pipe.segments.front();
      const std::size_t part = std::min(wanted - done, segment.bytes.size() - segment.taken);
      std::memcpy(into.data() + done, segment.bytes.data() + segment.taken, part);
      // They come with the first byte that they were sent with.
      for (const int descriptor : segment.descriptors) received_.push_back(descriptor);
      segment.descriptors.clear();
      segment.taken += part;
      done += part;
      if (segment.taken == segment.bytes.size()) pipe.segments.pop_front();
    }
    pipe.under_way -= done;
    pipe.room.wake_all();
    network_.env_.note("received", done);
    return done;
  }

  Task<Result<void>> write_all(IoVector data) override {
    SimPipe& pipe = outgoing();
    const SimNetworkOptions& options = network_.options_;
    SimRandom& random = network_.random_;
    std::vector<std::byte> bytes(data.size());
    data.copy_to(bytes.data());
    const bool at_once = random.percent(options.at_once);
    std::size_t done = 0;
    while (done < bytes.size()) {
      if (shut_) co_return io_error(ECANCELED);
      if (link_->cut || pipe.reader_gone) co_return io_error(EPIPE);
      if (pipe.under_way >= options.room) {
        co_await pipe.room.wait();
        continue;
      }
      std::size_t part = std::min(bytes.size() - done, options.room - pipe.under_way);
      // Small pieces are as likely as large ones.
      if (!at_once) part = 1 + random.below(std::min<uint64_t>(part, 1ULL << random.below(17)));
      if (part >= link_->cut_left) {
        link_->cut_now(network_.env_);
        co_return io_error(EPIPE);
      }
      link_->cut_left -= part;
      const int64_t now = network_.env_.now();
      int64_t arrival = at_once ? now : now + random.between(options.delay_min, options.delay_max);
      if (!pipe.segments.empty()) arrival = std::max(arrival, pipe.segments.back().arrival);
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(done);
      SimPipe::Segment segment{arrival, {begin, begin + static_cast<std::ptrdiff_t>(part)}};
      segment.descriptors = std::exchange(attached_, {});
      pipe.segments.push_back(std::move(segment));
      pipe.under_way += part;
      done += part;
      network_.env_.note("sent", part);
      pipe.arrivals.wake_all();
    }
    co_return {};
  }

  void shutdown() override {
    if (shut_) return;
    shut_ = true;
    end();
    incoming().wake_reader(network_.env_);
    outgoing().room.wake_all();
  }

  std::vector<int> take_descriptors() override { return std::exchange(received_, {}); }
  SocketAddress peer() const override { return peer_; }

  SimLink& link() { return *link_; }
  void attach(std::vector<int> descriptors) {
    attached_.insert(attached_.end(), descriptors.begin(), descriptors.end());
  }

 private:
  struct Arrival {
    SimEnv& env;
    SimPipe& pipe;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) const {
      pipe.alarm.deadline = pipe.segments.front().arrival;
      pipe.alarm.waiter = waiter;
      env.arm(pipe.alarm);
    }
    void await_resume() const noexcept {}
  };

  SimPipe& outgoing() { return link_->pipes[side_]; }
  SimPipe& incoming() { return link_->pipes[1 - side_]; }
  void end() {
    SimPipe& pipe = outgoing();
    if (std::exchange(pipe.ended, true)) return;
    pipe.arrivals.wake_all();
  }

  SimNetwork& network_;
  const std::shared_ptr<SimLink> link_;
  const int side_;
  const SocketAddress peer_;
  bool shut_ = false;
  std::vector<int> received_;
  std::vector<int> attached_;
};

class SimListener final : public Listener {
 public:
  SimListener(SimNetwork& network, std::string key, SocketAddress address)
      : network_(network),
        key_(std::move(key)),
        address_(std::move(address)),
        waiters_(network.env_.executor()) {
    network_.listeners_[key_] = this;
  }
  ~SimListener() override {
    BB_ASSERT(waiters_.empty());
    close();
  }

  Task<Result<std::unique_ptr<Stream>>> accept() override {
    while (!closed_ && queue_.empty()) co_await waiters_.wait();
    if (closed_) co_return io_error(ECANCELED);
    std::unique_ptr<Stream> stream = std::move(queue_.front());
    queue_.pop_front();
    co_return stream;
  }
  void close() override {
    if (std::exchange(closed_, true)) return;
    const auto found = network_.listeners_.find(key_);
    if (found != network_.listeners_.end() && found->second == this) {
      network_.listeners_.erase(found);
    }
    queue_.clear();
    waiters_.wake_all();
  }
  SocketAddress address() const override { return address_; }

  void arrive(std::unique_ptr<Stream> stream) {
    queue_.push_back(std::move(stream));
    waiters_.wake_one();
  }

 private:
  SimNetwork& network_;
  const std::string key_;
  const SocketAddress address_;
  std::deque<std::unique_ptr<Stream>> queue_;
  WaitQueue waiters_;
  bool closed_ = false;
};

namespace {

std::string key_of(const SocketAddress& address) {
  if (const auto* local = std::get_if<UnixAddress>(&address)) {
    return (local->abstract ? "abstract:" : "unix:") + local->path;
  }
  if (const auto* inet = std::get_if<InetAddress>(&address)) return "tcp:" + inet->port;
  return "descriptor:" + std::to_string(std::get<DescriptorAddress>(address).descriptor);
}

}  // namespace

SimNetwork::SimNetwork(SimEnv& env, uint64_t seed) : env_(env), random_(seed, 3) {}
SimNetwork::~SimNetwork() { BB_ASSERT(listeners_.empty()); }

SimNetwork::Pair SimNetwork::make_pair() {
  auto link = std::make_shared<SimLink>(env_.executor());
  if (random_.percent(options_.cut)) link->cut_left = 1 + random_.below(options_.cut_below);
  return {std::make_unique<SimStream>(*this, link, 0, UnixAddress{}),
          std::make_unique<SimStream>(*this, link, 1, UnixAddress{})};
}

void SimNetwork::offer_stream(int descriptor, std::unique_ptr<Stream> stream) {
  offered_streams_[descriptor] = std::move(stream);
}

void SimNetwork::offer_listener(int descriptor, SocketAddress address) {
  offered_listeners_[descriptor] = std::move(address);
}

void SimNetwork::cut(Stream& stream) { dynamic_cast<SimStream&>(stream).link().cut_now(env_); }

void SimNetwork::attach_descriptors(Stream& stream, std::vector<int> descriptors) {
  dynamic_cast<SimStream&>(stream).attach(std::move(descriptors));
}

Result<std::unique_ptr<Listener>> SimNetwork::listen_now(SocketAddress address) {
  if (auto* inet = std::get_if<InetAddress>(&address)) {
    unsigned port = 0;
    const char* const end = inet->port.data() + inet->port.size();
    const auto parsed = std::from_chars(inet->port.data(), end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || port > 65535) return io_error(EINVAL);
    const unsigned last = inet->to.value_or(static_cast<uint16_t>(port));
    const bool any = port == 0;
    if (any) port = next_port_++;
    while (listeners_.contains("tcp:" + std::to_string(port))) {
      if (!any && port >= last) return io_error(EADDRINUSE);
      ++port;
    }
    inet->port = std::to_string(port);
    inet->to.reset();
  } else if (const auto* given = std::get_if<DescriptorAddress>(&address)) {
    return take_listener(given->descriptor);
  }
  std::string key = key_of(address);
  return std::make_unique<SimListener>(*this, std::move(key), std::move(address));
}

Task<Result<std::unique_ptr<Listener>>> SimNetwork::listen(SocketAddress address) {
  co_return listen_now(std::move(address));
}

Task<Result<std::unique_ptr<Stream>>> SimNetwork::connect(SocketAddress address) {
  if (const auto* given = std::get_if<DescriptorAddress>(&address)) {
    co_return take_stream(given->descriptor, given->descriptor);
  }
  co_await env_.delay(random_.between(options_.delay_min, options_.delay_max));
  const auto found = listeners_.find(key_of(address));
  if (found == listeners_.end()) {
    co_return io_error(std::holds_alternative<UnixAddress>(address) ? ENOENT : ECONNREFUSED);
  }
  Pair pair = make_pair();
  found->second->arrive(std::move(pair.first));
  co_return std::move(pair.second);
}

Result<std::unique_ptr<Stream>> SimNetwork::take_stream(int read_descriptor, int write_descriptor) {
  // A pair of descriptors is offered under the first one.
  (void)write_descriptor;
  const auto found = offered_streams_.find(read_descriptor);
  if (found == offered_streams_.end()) return io_error(EBADF);
  std::unique_ptr<Stream> stream = std::move(found->second);
  offered_streams_.erase(found);
  return stream;
}

Result<std::unique_ptr<Listener>> SimNetwork::take_listener(int descriptor) {
  const auto found = offered_listeners_.find(descriptor);
  if (found == offered_listeners_.end()) return io_error(EBADF);
  SocketAddress address = std::move(found->second);
  offered_listeners_.erase(found);
  return listen_now(std::move(address));
}

}  // namespace blockbed::sim
