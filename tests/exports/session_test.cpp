// Sessions of the NBD server in a simulated world: requests and their refusals, many of them at
// once, fragments, lost clients, drained nodes.
#include "block/exports/nbd/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "block/exports/nbd/transmission.h"
#include "block/runtime/gate.h"
#include "tests/exports/export_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::nbd {
namespace {

using namespace test;

constexpr uint32_t kMiB = 1 << 20;

Bytes filled(std::size_t length, int byte) { return Bytes(length, static_cast<std::byte>(byte)); }

// --- single requests

Task<void> reads_what_was_written(World& world) {
  co_await world.start_with_disk();
  for (const bool structured : {false, true}) {
    auto client = co_await world.client("disk", structured);
    EXPECT_NE(client, nullptr);
    EXPECT_EQ(client->size(), World::kDiskSize);
    EXPECT_EQ(client->flags(), structured ? 0x0ded : 0x0d6d);
    EXPECT_EQ(co_await client->write(4096, filled(8192, 'x')), 0);
    EXPECT_EQ(co_await client->read(4000, 8300), filled(96, 0) + filled(8192, 'x') + filled(12, 0));
    EXPECT_EQ(co_await client->write(1, filled(200'000, 'y'), kFlagFua), 0);
    EXPECT_EQ(co_await client->read(0, 200'002),
              filled(1, 0) + filled(200'000, 'y') + filled(1, 0));
    EXPECT_EQ(co_await client->simple(Command::kFlush, 0, 0), 0);
    EXPECT_EQ(co_await client->simple(Command::kWriteZeroes, 0, 300'000, kFlagNoHole), 0);
    EXPECT_EQ(co_await client->simple(Command::kTrim, 0, kMiB, kFlagFua), 0);
    EXPECT_EQ(co_await client->simple(Command::kCache, 0, kMiB), 0);
    EXPECT_EQ(co_await client->read(0, kMiB), filled(kMiB, 0));
    EXPECT_EQ(co_await client->request(Command::kDisconnect, 0, 0), true);
    EXPECT_TRUE(co_await client->at_end());
  }
  // A flush with nothing written since the last one costs nothing.
  EXPECT_EQ(world.disk.flushes, 4u);
  co_await world.wait_for_connections(0);
}
TEST(NbdSession, ReadsWhatWasWritten) {
  World world(1);
  world.env.run(reads_what_was_written(world));
}

struct Refusal {
  Command command;
  uint64_t offset;
  uint32_t length;
  uint16_t flags;
  const char* text;
};

// What the installed QEMU 7.2.22 answers, for an export of 1 MiB.
constexpr Refusal kRefusals[] = {
    {Command::kRead, kMiB + 1, 0, 0, "operation past EOF; From: 1048577, Len: 0, Size: 1048576"},
    {Command::kRead, kMiB - 256, 512, 0,
     "operation past EOF; From: 1048320, Len: 512, Size: 1048576"},
    {Command::kRead, uint64_t{0} - 256, 512, 0,
     "operation past EOF; From: 18446744073709551360, Len: 512, Size: 1048576"},
    {Command::kRead, 0, kMaxPayload, 0,
     "operation past EOF; From: 0, Len: 33554432, Size: 1048576"},
    {Command::kRead, 0, kMaxPayload + 1, 0, "len (33554433 ) is larger than max len (33554432)"},
    {Command::kCache, 0, kMaxPayload + 1, 0, "len (33554433 ) is larger than max len (33554432)"},
    {Command::kTrim, 0, 0xffffffff, 0,
     "operation past EOF; From: 0, Len: 4294967295, Size: 1048576"},
    {Command::kRead, 0, 16, kFlagNoHole, "unsupported flags for command read (got 0x2)"},
    {Command::kRead, 0, 16, kFlagReqOne, "unsupported flags for command read (got 0x8)"},
    {Command::kTrim, 0, 16, kFlagDf, "unsupported flags for command trim (got 0x4)"},
    {Command::kCache, 0, 16, kFlagFastZero, "unsupported flags for command cache (got 0x10)"},
    {Command::kWriteZeroes, 0, 16, 0x20, "unsupported flags for command write zeroes (got 0x20)"},
    {Command::kBlockStatus, 0, 16, kFlagDf, "unsupported flags for command block status (got 0x4)"},
    {Command::kBlockStatus, 0, 0, 0, "need non-zero length"},
    {Command::kBlockStatus, 0, 16, 0, "CMD_BLOCK_STATUS not negotiated"},
    {Command(8), 0, 16, 0, "invalid request type (8) received"},
    {Command(8), 0, 16, kFlagFua, "invalid request type (8) received"},
    {Command(0xffff), 0, 0, 0, "invalid request type (65535) received"},
};

Task<void> wrong_requests_cost_no_more_than_themselves(World& world) {
  co_await world.start_with_disk();
  for (const bool structured : {true, false}) {
    auto client = co_await world.client("disk", structured);
    EXPECT_NE(client, nullptr);
    for (const Refusal& refusal : kRefusals) {
      EXPECT_TRUE(co_await client->request(refusal.command, refusal.offset, refusal.length,
                                           refusal.flags, 5));
      const auto reply = co_await client->reply();
      EXPECT_TRUE(reply);
      EXPECT_EQ(reply->error, 22u);
      EXPECT_EQ(reply->handle, 5u);
      EXPECT_EQ(reply->text, structured ? refusal.text : "");
    }
    // Writes bring their payload along, refused or not.
    EXPECT_TRUE(co_await client->request(Command::kWrite, kMiB, 70'000, 0, 6, filled(70'000, 'x')));
    const auto reply = co_await client->reply();
    EXPECT_EQ(reply->error, 22u);
    EXPECT_EQ(co_await client->write(0, filled(3, 'z'), kFlagDf), 22);
    EXPECT_EQ(co_await client->read(0, 4), filled(4, 0));
  }
}
TEST(NbdSession, WrongRequestsCostNoMoreThanThemselves) {
  World world(2);
  world.env.run(wrong_requests_cost_no_more_than_themselves(world));
}

Task<void> what_ends_the_connection(World& world) {
  co_await world.start_with_disk();
  {
    auto client = co_await world.client("disk");
    EXPECT_TRUE(co_await client->request(Command::kWrite, 0, kMaxPayload + 1));
    const auto reply = co_await client->reply();
    EXPECT_EQ(reply->text, "len (33554433 ) is larger than max len (33554432)");
    EXPECT_TRUE(co_await client->at_end());
  }
  {
    auto client = co_await world.client("disk");
    EXPECT_TRUE(co_await client->send(request_bytes(Request{7, 0, 0, 9, 0, 16})));
    const auto reply = co_await client->reply();
    EXPECT_EQ(reply->text, "invalid magic (got 0x7)");
    EXPECT_EQ(reply->handle, 9u);
    EXPECT_TRUE(co_await client->at_end());
  }
  {
    // Garbage instead of a greeting's answer.
    auto client = co_await world.connect();
    EXPECT_TRUE(co_await client->send(bytes_of("GET / HTTP/1.1\r\n\r\n")));
    EXPECT_TRUE(co_await client->receive(kGreetingSize));
    EXPECT_TRUE(co_await client->at_end());
  }
  co_await world.wait_for_connections(0);
  auto client = co_await world.client("disk");
  EXPECT_EQ(co_await client->read(0, 4), filled(4, 0));
}
TEST(NbdSession, WhatEndsTheConnection) {
  World world(3);
  world.env.run(what_ends_the_connection(world));
}

Task<void> a_read_only_export_refuses_every_change(World& world) {
  EXPECT_EQ(co_await world.start(), "");
  co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("e", "disk")), "");
  auto client = co_await world.client("disk");
  EXPECT_EQ(client->flags(), 0x058f);
  for (const Command command : {Command::kWrite, Command::kTrim, Command::kWriteZeroes}) {
    const Bytes payload = command == Command::kWrite ? filled(512, 'x') : Bytes();
    // Not even where it would be out of bounds, or nothing.
    for (const uint64_t offset : {uint64_t{0}, uint64_t{kMiB}}) {
      EXPECT_TRUE(co_await client->request(command, offset, 512, 0, 1, payload));
      const auto reply = co_await client->reply();
      EXPECT_EQ(reply->error, 22u);
      EXPECT_EQ(reply->text, "Export is read-only");
    }
  }
  EXPECT_EQ(co_await client->read(0, 512), filled(512, 0));
  EXPECT_EQ(world.disk.writes + world.disk.zeroes + world.disk.discards, 0u);
}
TEST(NbdSession, AReadOnlyExportRefusesEveryChange) {
  World world(4);
  world.env.run(a_read_only_export_refuses_every_change(world));
}

Task<void> failures_of_the_disk_reach_the_client(World& world) {
  co_await world.start_with_disk();
  auto client = co_await world.client("disk");
  world.disk.next_read_error = EIO;
  EXPECT_TRUE(co_await client->request(Command::kRead, 0, 512));
  auto reply = co_await client->reply();
  EXPECT_EQ(reply->error, 5u);
  EXPECT_EQ(reply->text, "reading from file failed");
  world.disk.next_write_error = ENOSPC;
  EXPECT_TRUE(co_await client->request(Command::kWrite, 0, 512, 0, 1, filled(512, 'x')));
  reply = co_await client->reply();
  EXPECT_EQ(reply->error, 28u);
  EXPECT_EQ(reply->text, "writing to file failed");
  world.disk.zero_supported = false;
  EXPECT_TRUE(co_await client->request(Command::kWriteZeroes, 0, 512, kFlagFastZero));
  reply = co_await client->reply();
  EXPECT_EQ(reply->error, 95u);
  EXPECT_EQ(co_await client->simple(Command::kWriteZeroes, 0, 512), 0);
}
TEST(NbdSession, FailuresOfTheDiskReachTheClient) {
  World world(5);
  world.env.run(failures_of_the_disk_reach_the_client(world));
}

Task<void> block_status(World& world) {
  EXPECT_EQ(co_await world.start(), "");
  co_await world.open_node("disk");
  auto options = World::options("disk", "disk");
  std::get<schema::BlockExportOptionsNbd>(options.u).allocation_depth = true;
  EXPECT_EQ(co_await world.add(options), "");
  auto client = co_await world.client("disk", true, {"base:allocation", "qemu:allocation-depth"});
  EXPECT_TRUE(co_await client->request(Command::kBlockStatus, 512, 4096));
  auto reply = co_await client->reply();
  using Extents = std::vector<std::pair<uint32_t, uint32_t>>;
  EXPECT_EQ(reply->context, 0u);
  EXPECT_FALSE(reply->done);
  EXPECT_EQ(reply->extents, (Extents{{4096, 0}}));
  reply = co_await client->reply();
  EXPECT_EQ(reply->context, 1u);
  EXPECT_TRUE(reply->done);
  EXPECT_EQ(reply->extents, (Extents{{4096, 1}}));
}
TEST(NbdSession, BlockStatus) {
  World world(6);
  world.env.run(block_status(world));
}

// --- many at once

// Requests are sent in bursts and answered in any order; a golden model says what reads give. One
// client a region, so that the model is exact.
Task<void> hammer(World& world, uint64_t begin, uint64_t size, int bursts) {
  sim::SimRandom& chance = world.env.chance();
  const bool structured = chance.below(2) == 0;
  auto client = co_await world.client("disk", structured);
  if (client == nullptr) co_return;
  Bytes model(size);
  for (int burst = 0; burst < bursts; ++burst) {
    // Slices of the region, so that no two requests of a burst overlap.
    const std::size_t count = 1 + chance.below(100);
    const uint64_t slice = size / count;
    Bytes out;
    std::map<uint64_t, Request> sent;
    for (std::size_t i = 0; i < count; ++i) {
      const uint64_t at = i * slice + chance.below(slice / 2);
      const auto length = static_cast<uint32_t>(1 + chance.below(slice / 2));
      Request request{kRequestMagic, 0, 0, i + 1000, begin + at, length};
      Bytes payload;
      const auto range = model.begin() + static_cast<std::ptrdiff_t>(at);
      switch (chance.below(4)) {
        case 0:
          request.type = static_cast<uint16_t>(Command::kWrite);
          payload = filled(length, static_cast<int>(1 + chance.below(255)));
          std::copy(payload.begin(), payload.end(), range);
          break;
        case 1:
          request.type = static_cast<uint16_t>(Command::kWriteZeroes);
          std::fill_n(range, length, std::byte{0});
          break;
        default:
          break;
      }
      out = std::move(out) + request_bytes(request, payload);
      sent.emplace(request.handle, request);
    }
    if (!co_await client->send(std::move(out))) co_return;
    std::map<uint64_t, Bytes> read;
    while (!sent.empty()) {
      // Simple replies do not say how long they are: those are taken below, by what was asked.
      if (!structured) break;
      const auto reply = co_await client->reply();
      if (!reply) co_return;
      const auto request = sent.find(reply->handle);
      if (request == sent.end()) {
        ADD_FAILURE() << "a reply to nothing";
        co_return;
      }
      EXPECT_EQ(reply->error, 0u) << reply->text;
      if (reply->type == ChunkType::kOffsetData || reply->type == ChunkType::kOffsetHole) {
        Bytes& bytes = read.try_emplace(reply->handle, Bytes(request->second.length)).first->second;
        std::copy(
            reply->data.begin(), reply->data.end(),
            bytes.begin() + static_cast<std::ptrdiff_t>(reply->offset - request->second.offset));
      }
      if (!reply->done) continue;
      if (request->second.type == static_cast<uint16_t>(Command::kRead)) {
        const auto expected =
            model.begin() + static_cast<std::ptrdiff_t>(request->second.offset - begin);
        EXPECT_TRUE(std::equal(read[reply->handle].begin(), read[reply->handle].end(), expected));
      }
      sent.erase(request);
    }
    for (std::size_t i = sent.size(); i > 0; --i) {
      const auto head = co_await client->receive(kSimpleReplySize);
      if (!head) co_return;
      const SimpleReply reply = decode_simple_reply(head->data());
      EXPECT_EQ(reply.error, 0u);
      const auto request = sent.find(reply.handle);
      if (request == sent.end()) {
        ADD_FAILURE() << "a reply to nothing";
        co_return;
      }
      if (request->second.type == static_cast<uint16_t>(Command::kRead)) {
        const auto data = co_await client->receive(request->second.length);
        if (!data) co_return;
        EXPECT_TRUE(std::equal(
            data->begin(), data->end(),
            model.begin() + static_cast<std::ptrdiff_t>(request->second.offset - begin)));
      }
      sent.erase(request);
    }
  }
  if (chance.below(2) == 0) (void)co_await client->request(Command::kDisconnect, 0, 0);
}

Task<void> hammer_with_clients(World& world, std::size_t clients, int bursts) {
  co_await world.start_with_disk();
  const uint64_t region = World::kDiskSize / clients;
  Gate gate(world.env.executor());
  for (std::size_t i = 0; i < clients; ++i) gate.spawn(hammer(world, i * region, region, bursts));
  co_await gate.close();
  co_await world.wait_for_connections(0);
}

TEST(NbdSession, ManyRequestsOfManyClients) {
  sim::for_each_seed(60, [](uint64_t seed) {
    World world(seed);
    world.env.run(hammer_with_clients(world, 1 + seed % 4, 4));
  });
}

TEST(NbdSession, ConnectionsCutAnywhere) {
  sim::for_each_seed(150, [](uint64_t seed) {
    World world(seed);
    sim::SimNetworkOptions options;
    options.cut = 70;
    options.cut_below = 300'000;
    world.env.network().set_options(options);
    world.env.run(hammer_with_clients(world, 3, 3));
  });
}

Task<void> vanishes_in_a_payload(World& world) {
  co_await world.start_with_disk();
  for (const uint32_t length : {4096u, 500'000u}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{World::kDiskSize}}) {
      auto client = co_await world.client("disk");
      EXPECT_TRUE(
          co_await client->request(Command::kWrite, offset, length, 0, 1, filled(length - 1, 'x')));
      client->hang_up();
      co_await world.wait_for_connections(0);
    }
  }
  EXPECT_EQ(world.disk.writes, 0u);
}
TEST(NbdSession, AClientThatVanishesInAPayloadHasWrittenNothing) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(vanishes_in_a_payload(world));
  });
}

Task<void> what_is_in_flight_is_bounded(World& world) {
  co_await world.start_with_disk();
  Event hold(world.env.executor());
  world.disk.hold = &hold;
  constexpr uint64_t kCount = 3 * Transmission::kMaxRequests;
  auto client = co_await world.client("disk");
  Bytes out;
  for (uint64_t i = 0; i < kCount; ++i)
    out = std::move(out) + request_bytes(Request{kRequestMagic, 0, 0, i, i * 16, 16});
  EXPECT_TRUE(co_await client->send(std::move(out)));
  // Long enough for anything that was to come.
  co_await world.env.sleep(1'000'000'000);
  EXPECT_EQ(world.disk.reads, Transmission::kMaxRequests);
  hold.set();
  std::vector<bool> seen(kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    const auto reply = co_await client->reply();
    EXPECT_TRUE(reply && reply->error == 0 && !seen.at(reply->handle));
    seen.at(reply->handle) = true;
  }
  EXPECT_EQ(world.disk.reads, kCount);
}
TEST(NbdSession, WhatIsInFlightIsBounded) {
  World world(8);
  world.env.run(what_is_in_flight_is_bounded(world));
}

Task<void> others_have_their_turn(World& world) {
  co_await world.start_with_disk();
  std::map<uint64_t, uint64_t> bytes_of_step;
  world.disk.on_read = [&](uint64_t length) { bytes_of_step[world.env.steps()] += length; };
  constexpr uint32_t kLength = Transmission::kBytesATurn - 4096;
  constexpr uint64_t kCount = 8;
  auto client = co_await world.client("disk", false);
  Bytes out;
  for (uint64_t i = 0; i < kCount; ++i) {
    out = std::move(out) + request_bytes(Request{kRequestMagic, 0, 0, i, 0, kLength});
  }
  EXPECT_TRUE(co_await client->send(std::move(out)));
  for (uint64_t i = 0; i < kCount; ++i) EXPECT_TRUE(co_await client->reply(kLength));
  for (const auto& [step, bytes] : bytes_of_step) EXPECT_LE(bytes, 2 * kLength);
  EXPECT_EQ(world.disk.reads, kCount);
}
TEST(NbdSession, AfterSomeLongRequestsOthersHaveTheirTurn) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(others_have_their_turn(world));
  });
}

Task<void> one_request_of_every_size(World& world) {
  EXPECT_EQ(co_await world.start(), "");
  world.disk.bytes.resize(kMaxPayload + kMiB);
  co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk", true)), "");
  for (const bool structured : {true, false}) {
    auto client = co_await world.client("disk", structured);
    // Around each size at which the way of a payload changes, and the largest that is allowed.
    for (const uint32_t edge : {Transmission::kBufferedPayload, kHoleQueryMinimum, kMaxPayload}) {
      for (const uint32_t length : {edge - 1, edge, edge + 1}) {
        if (length > kMaxPayload) continue;
        Bytes bytes(length);
        for (std::size_t i = 0; i < length; i += 97) bytes[i] = static_cast<std::byte>(i / 97 + 1);
        EXPECT_EQ(co_await client->write(3, bytes), 0);
        EXPECT_EQ(co_await client->read(3, length), bytes);
      }
    }
  }
}
TEST(NbdSession, OneRequestOfEverySize) {
  World world(9);
  sim::SimNetworkOptions options;
  options.room = 8 << 20;
  options.at_once = 100;
  world.env.network().set_options(options);
  world.env.run(one_request_of_every_size(world));
}

// --- drain

Task<void> a_drained_node_holds_requests_back(World& world) {
  EXPECT_EQ(co_await world.start(), "");
  Node* node = co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk", true)), "");
  auto client = co_await world.client("disk", true, {"base:allocation"});
  {
    const DrainedSection drained = co_await drain(*node);
    EXPECT_TRUE(co_await client->request(Command::kWrite, 0, 4, 0, 1, filled(4, 'd')));
    EXPECT_TRUE(co_await client->request(Command::kBlockStatus, 0, 512, 0, 2));
    EXPECT_TRUE(co_await client->request(Command::kRead, 0, 100'000, 0, 3));
    co_await world.env.sleep(1'000'000'000);
    EXPECT_EQ(world.disk.writes + world.disk.reads, 0u);
  }
  std::vector<uint64_t> answered;
  while (answered.size() < 3) {
    const auto reply = co_await client->reply();
    if (!reply) {
      ADD_FAILURE() << "the connection was lost";
      co_return;
    }
    EXPECT_EQ(reply->error, 0u);
    if (reply->done) answered.push_back(reply->handle);
  }
  std::ranges::sort(answered);
  EXPECT_EQ(answered, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(world.disk.writes, 1u);
}
TEST(NbdSession, ADrainedNodeHoldsRequestsBack) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(a_drained_node_holds_requests_back(world));
  });
}

Task<void> drain_again_and_again(World& world, Node& node, const bool& over) {
  while (!over) {
    {
      const DrainedSection drained = co_await drain(node);
      EXPECT_EQ(node.in_flight(), 0u);
      co_await world.env.sleep(static_cast<int64_t>(world.env.chance().below(200'000)));
      EXPECT_EQ(node.in_flight(), 0u);
    }
    co_await world.env.sleep(static_cast<int64_t>(world.env.chance().below(400'000)));
  }
}
Task<void> hammer_a_drained_node(World& world) {
  EXPECT_EQ(co_await world.start(), "");
  Node* node = co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk", true)), "");
  bool over = false;
  Gate drains(world.env.executor());
  drains.spawn(drain_again_and_again(world, *node, over));
  Gate clients(world.env.executor());
  for (uint64_t i = 0; i < 2; ++i) {
    clients.spawn(hammer(world, i * World::kDiskSize / 2, World::kDiskSize / 2, 3));
  }
  co_await clients.close();
  over = true;
  co_await drains.close();
}
TEST(NbdSession, DrainsBetweenRequestsLoseNothing) {
  sim::for_each_seed(40, [](uint64_t seed) {
    World world(seed);
    world.env.run(hammer_a_drained_node(world));
  });
}

}  // namespace
}  // namespace blockbed::nbd
