// A node with persistent bitmaps is to be left for reading only, which stores them, and each
// request of that fails in turn. The node goes on being written to: none of its bitmaps is believed
// afterwards as it was then, and all of them are stored when it is closed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>

#include "block/formats/register.h"
#include "block/graph/backend.h"
#include "block/graph/dirty_bitmap_list.h"
#include "block/graph/graph.h"
#include "block/graph/reopen.h"
#include "block/protocols/register.h"
#include "block/sim/sim_env.h"
#include "block/sim/sim_storage.h"
#include "tests/qcow2/bitmaps_fixture.h"
#include "tests/qcow2/image_fixture.h"
#include "tests/qcow2/stored_bitmaps_fixture.h"
#include "tests/support/memory_driver.h"

namespace blockbed::qcow2::test {
namespace {

constexpr const char* kBitmaps[] = {"first", "second"};

json::Object definition(bool read_only) {
  return {{"driver", "qcow2"},
          {"node-name", "node"},
          {"read-only", read_only},
          {"file", json::Object{{"driver", "file"}, {"filename", "disk"}}}};
}

// A graph of one node, in a storage.
class Server {
 public:
  explicit Server(sim::SimEnv& env) {
    register_formats(drivers_);
    register_protocols(drivers_);
    graph_.emplace(env, events_, drivers_);
  }

  Task<bool> start() {
    Graph::OpenRequest request;
    request.options = definition(false);
    auto node = co_await graph_->open(std::move(request));
    EXPECT_TRUE(node) << (node ? "" : node.error().description);
    if (!node) co_return false;
    graph_->give_to_monitor(**node);
    co_return true;
  }
  Task<void> end() {
    co_await graph_->shutdown();
    graph_.reset();
  }

  Node& node() { return *graph_->find_node("node"); }

  Task<void> make_bitmaps() {
    for (const char* name : kBitmaps) {
      auto made = node().dirty_bitmaps().create(name, uint64_t{1} << kGranularity, node().length());
      EXPECT_TRUE(made);
      if (made) (*made)->set_persistent(true);
    }
    co_return;
  }

  Task<bool> write(uint64_t offset, int value) {
    Backend disk(*graph_, "", {Permissions(Permission::kWrite), Permissions::all()});
    EXPECT_TRUE(disk.insert(node()));
    Buffer data(512);
    data.io().fill(static_cast<unsigned char>(value));
    const bool done = (co_await disk.write(offset, data.io(), RequestFlags())).has_value() &&
                      (co_await disk.flush()).has_value();
    co_await disk.remove();
    co_return done;
  }

  Task<bool> reopen(bool read_only) {
    std::vector<ReopenRequest> requests;
    requests.emplace_back(NodeRef(node()), definition(read_only), false);
    auto done = co_await blockbed::reopen(*graph_, std::move(requests));
    co_await graph_->close_unreferenced();
    co_return done.has_value();
  }

 private:
  blockbed::test::RecordedEvents events_;
  DriverRegistry drivers_;
  std::optional<Graph> graph_;
};

constexpr uint64_t kClusters = 6000;

enum class Then { kPowerCut, kClosed, kReopened };

// What the bitmaps have, and what they are to have: a write that the image knows of, one before the
// failure, and one behind it.
Task<void> live(sim::SimEnv& env, Server& server, sim::FaultRule rule, Then then, bool unsaved,
                bool& hit) {
  if (!co_await server.start()) co_return;
  co_await server.make_bitmaps();
  EXPECT_TRUE(co_await server.write(5 * 512, 1));
  // They are in the image, and marked with the first write.
  EXPECT_TRUE(co_await server.reopen(true));
  EXPECT_TRUE(co_await server.reopen(false));
  if (unsaved) EXPECT_TRUE(co_await server.write(9 * 512, 1));
  const auto id = env.storage().add_fault(rule);
  const bool reopened = co_await server.reopen(true);
  hit = env.storage().hits(id) > 0;
  env.storage().remove_fault(id);
  if (!hit) EXPECT_TRUE(reopened);
  if (then == Then::kReopened) {
    // Once more, and now nothing fails.
    EXPECT_TRUE(co_await server.reopen(true));
    env.storage().power_off();
  }
  if (reopened && then != Then::kReopened) EXPECT_TRUE(co_await server.reopen(false));
  if (then != Then::kReopened) {
    // A file that failed to flush has no flush any more.
    const bool written = co_await server.write(0, 2);
    EXPECT_TRUE(written || (hit && rule.requests == sim::kSimFlush));
  }
  if (then == Then::kPowerCut) env.storage().power_off();
  co_await server.end();
}

Bits expected_bits(Then then, bool unsaved) {
  Bits bits(bits_needed(uneven_disk(512, kClusters).size, kGranularity));
  bits[5] = 1;
  if (unsaved) bits[9] = 1;
  if (then != Then::kReopened) bits[0] = 1;
  return bits;
}

void fail_each(unsigned requests, Then then, bool unsaved) {
  for (uint64_t skip = 0;; ++skip) {
    const std::string where = fmt::format("request {} of kind {:#x} ", skip, requests);
    sim::SimEnv env(skip + 1);
    env.storage().set_latency(sim::SimLatency::none());
    EXPECT_TRUE(env.run(create_image(env, "disk", uneven_disk(512, kClusters))));
    bool hit = false;
    {
      Server server(env);
      sim::FaultRule rule;
      rule.requests = requests;
      rule.skip = skip;
      env.run(live(env, server, rule, then, unsaved, hit));
    }
    if (!env.storage().powered()) {
      env.storage().power_on(env.storage().crash_image(sim::CrashSubset::seeded(skip)));
    }
    const auto look = env.run(look_at(env, where));
    if (!look) return;
    for (const char* name : kBitmaps) {
      const auto found = look->bitmaps.find(name);
      const bool believed = found != look->bitmaps.end() && found->second.has_value();
      if (then == Then::kPowerCut) {
        EXPECT_FALSE(believed && look->data == std::byte{2})
            << where << name << " misses what was written since";
      } else {
        EXPECT_TRUE(believed && *found->second == expected_bits(then, unsaved)) << where << name;
      }
    }
    if (::testing::Test::HasFailure()) ADD_FAILURE() << where;
    if (!hit || ::testing::Test::HasFailure()) {
      // One barrier is enough for the flags of all.
      EXPECT_GT(skip, requests == sim::kSimFlush ? 0u : 1u);
      return;
    }
  }
}

class Qcow2BitmapsReopenFaults : public ::testing::TestWithParam<std::tuple<Then, bool>> {};

TEST_P(Qcow2BitmapsReopenFaults, EachRequest) {
  const auto [then, unsaved] = GetParam();
  fail_each(sim::kSimRead, then, unsaved);
  fail_each(sim::kSimWrite, then, unsaved);
  if (then == Then::kPowerCut) fail_each(sim::kSimFlush, then, unsaved);
}

INSTANTIATE_TEST_SUITE_P(Each, Qcow2BitmapsReopenFaults,
                         ::testing::Combine(::testing::Values(Then::kPowerCut, Then::kClosed,
                                                              Then::kReopened),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           const Then then = std::get<0>(info.param);
                           return std::string(then == Then::kPowerCut ? "PowerCut"
                                              : then == Then::kClosed ? "Closed"
                                                                      : "Reopened") +
                                  (std::get<1>(info.param) ? "AfterAWrite" : "");
                         });

}  // namespace
}  // namespace blockbed::qcow2::test
