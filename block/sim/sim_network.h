// SimNetwork: the listeners and connections of a SimEnv.
//
// What happens to bytes on the way, by the seed: they are cut into pieces of any size, the pieces
// arrive after delays and in order, the room under way is bounded so that a writer may have to wait
// for the reader, and a read gets any part of what has arrived. What a fault adds: a link can be
// cut after a number of bytes, in the middle of anything; bytes under way are lost, the reader then
// gets ECONNRESET and the writer EPIPE.
//
// Contract: an address is known by its text; port "0" becomes a free one. Connecting where nobody
// listens is ECONNREFUSED (TCP) or ENOENT (unix). make_pair() and offer_*() let a test hold the
// other end. Units: bytes, nanoseconds of virtual time. Threading: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "block/runtime/stream.h"
#include "block/sim/sim_random.h"

namespace blockbed::sim {

class SimEnv;
class SimStream;
class SimListener;
struct SimPipe;

struct SimNetworkOptions {
  int64_t delay_min = 1'000;
  int64_t delay_max = 100'000;
  // Bytes under way in one direction.
  std::size_t room = 64 * 1024;
  // So many of a hundred writes arrive whole and at once.
  unsigned at_once = 30;
  // So many of a hundred new connections are cut, after a number of bytes below cut_below.
  unsigned cut = 0;
  uint64_t cut_below = 65536;

  SimNetworkOptions() = default;
};

class SimNetwork {
 public:
  SimNetwork(SimEnv& env, uint64_t seed);
  ~SimNetwork();

  void set_options(SimNetworkOptions options) { options_ = options; }
  const SimNetworkOptions& options() const { return options_; }

  using Pair = std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>>;
  Pair make_pair();
  // What adopt_stream(descriptor, descriptor) or a DescriptorAddress gives.
  void offer_stream(int descriptor, std::unique_ptr<Stream> stream);
  // What adopt_listener(descriptor) gives; clients connect() to `address`.
  void offer_listener(int descriptor, SocketAddress address);
  // Cuts a connection now: everything under way in both directions is lost.
  void cut(Stream& stream);
  // Sends descriptors along with the bytes that are written next, as SCM_RIGHTS does.
  void attach_descriptors(Stream& stream, std::vector<int> descriptors);

  Task<Result<std::unique_ptr<Listener>>> listen(SocketAddress address);
  Task<Result<std::unique_ptr<Stream>>> connect(SocketAddress address);
  Result<std::unique_ptr<Stream>> take_stream(int read_descriptor, int write_descriptor);
  Result<std::unique_ptr<Listener>> take_listener(int descriptor);

 private:
  friend class SimStream;
  friend class SimListener;
  friend struct SimPipe;

  Result<std::unique_ptr<Listener>> listen_now(SocketAddress address);

  SimEnv& env_;
  SimRandom random_;
  SimNetworkOptions options_;
  std::map<std::string, SimListener*> listeners_;
  std::map<int, std::unique_ptr<Stream>> offered_streams_;
  std::map<int, SocketAddress> offered_listeners_;
  uint16_t next_port_ = 49152;
};

}  // namespace blockbed::sim
