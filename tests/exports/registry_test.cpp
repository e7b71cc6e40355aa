// Exports as commands see them: adding, errors and their texts, removal, events, the server's start
// and stop.
#include "block/exports/export_registry.h"

#include <gtest/gtest.h>

#include "block/runtime/gate.h"
#include "tests/exports/export_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::nbd {
namespace {

using namespace test;
using Names = std::vector<std::string>;

Task<void> errors_of_adding(World& world) {
  Node* node = co_await world.open_node("n");
  Node* read_only_node = co_await world.open_node("ro", true);
  EXPECT_EQ(co_await world.add(World::options("e", "n")), "NBD server not running");
  EXPECT_EQ(co_await world.add(World::options("e", "nosuch")),
            "Cannot find device='' nor node-name='nosuch'");
  EXPECT_EQ(co_await world.stop(), "NBD server not running");
  EXPECT_EQ(co_await world.start(), "");
  EXPECT_EQ(co_await world.start(), "NBD server already running");
  for (const char* id : {"", "9e", "#e", "a b", "a/b"}) {
    EXPECT_EQ(co_await world.add(World::options(id, "n")), "Invalid block export id");
  }
  auto with_iothread = World::options("e", "n");
  with_iothread.iothread = "io";
  EXPECT_EQ(co_await world.add(with_iothread), "iothread \"io\" not found");
  const IoContext io = std::make_shared<Iothread>("io");
  world.exports->set_iothread_lookup(
      [io](std::string_view id) { return id == "io" ? io : nullptr; });
  EXPECT_EQ(co_await world.add(World::options("ew", "ro", true)),
            "Cannot export read-only node as writable");

  // Refused after the node has moved: by the rules of all exports, and by those of this type.
  auto read_only = World::options("e", "ro", true);
  read_only.iothread = "io";
  EXPECT_EQ(co_await world.add(read_only), "Cannot export read-only node as writable");
  EXPECT_EQ(read_only_node->context(), nullptr);
  const IoContext before = std::make_shared<Iothread>("before");
  EXPECT_TRUE(move_to_context(*node, before));
  auto no_bitmap = with_iothread;
  std::get<schema::BlockExportOptionsNbd>(no_bitmap.u).bitmaps.emplace(1).front().u =
      std::string("b");
  EXPECT_EQ(co_await world.add(no_bitmap), "Bitmap 'b' is not found");
  EXPECT_EQ(node->context(), before);

  auto long_name = World::options("e", "n");
  std::get<schema::BlockExportOptionsNbd>(long_name.u).name = std::string(kMaxString + 1, 'a');
  EXPECT_EQ(co_await world.add(long_name),
            "export name '" + std::string(kMaxString + 1, 'a') + "' too long");
  auto long_text = World::options("e", "n");
  std::get<schema::BlockExportOptionsNbd>(long_text.u).description =
      std::string(kMaxString + 1, 'a');
  EXPECT_EQ(co_await world.add(long_text),
            "description '" + std::string(kMaxString + 1, 'a') + "' too long");
  auto with_bitmap = World::options("e", "n");
  std::get<schema::BlockExportOptionsNbd>(with_bitmap.u).bitmaps.emplace(1).front().u =
      std::string("b");
  EXPECT_EQ(co_await world.add(with_bitmap), "Bitmap 'b' is not found");
  auto fuse = World::options("e", "n");
  fuse.type = schema::BlockExportType::kFuse;
  EXPECT_EQ(co_await world.add(fuse), "No driver found for the requested export type 'fuse'");

  // Nothing of all that is left behind.
  EXPECT_TRUE(world.exports->empty());
  EXPECT_TRUE(node->parents().empty());

  EXPECT_EQ(co_await world.add(with_iothread), "");
  EXPECT_EQ(co_await world.add(World::options("e", "ro")), "Block export id 'e' is already in use");
  EXPECT_EQ(co_await world.add(World::options("e2", "n")),
            "NBD server already has export named 'n'");
  auto longest = World::options("e2", "n");
  std::get<schema::BlockExportOptionsNbd>(longest.u).name = std::string(kMaxString, 'a');
  EXPECT_EQ(co_await world.add(longest), "");
  EXPECT_EQ(co_await world.remove("nosuch"), "Export 'nosuch' is not found");
}
TEST(ExportRegistry, ErrorsOfAdding) {
  World world(1);
  world.env.run(errors_of_adding(world));
}

Task<void> the_older_command(World& world) {
  Node* node = co_await world.open_node("n");
  co_await world.open_node("ro", true);
  schema::NbdServerAddOptions options;
  options.device = "nosuch";
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)),
            "Cannot find device='nosuch' nor node-name='nosuch'");
  options.device = "n";
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "NBD server not running");
  EXPECT_EQ(co_await world.start(), "");
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "");
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)),
            "Block export id 'n' is already in use");
  options.bitmap = "b";
  options.name = "other";
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "Bitmap 'b' is not found");
  options.bitmap.reset();
  options.name = "";
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "Invalid block export id");
  // Writable is a wish here.
  options.device = "ro";
  options.name = "r";
  options.writable = true;
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "");
  auto client = co_await world.client("r");
  EXPECT_TRUE(client->flags() & kReadOnly);
  client.reset();
  co_await world.wait_for_connections(0);

  // Exports of a device go with its medium; those of its node stay.
  world.insert_device("drive0", *node);
  options.device = "drive0";
  options.name = "d1";
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "");
  options.name = "d2";
  options.writable = false;
  EXPECT_EQ(World::text(co_await world.exports->add_nbd(options)), "");
  auto connected = co_await world.client("d1");
  EXPECT_NE(connected, nullptr);
  co_await world.exports->medium_removed(*world.device);
  EXPECT_EQ(world.deleted().size(), 2u);
  EXPECT_TRUE(co_await connected->at_end());
  std::vector<std::string> left;
  for (const schema::BlockExportInfo& info : world.exports->query()) left.push_back(info.id);
  EXPECT_EQ(left, (Names{"r", "n"}));
}
TEST(ExportRegistry, TheOlderCommand) {
  World world(2);
  world.env.run(the_older_command(world));
}

Task<void> removal(World& world) {
  co_await world.start_with_disk();
  Event hold(world.env.executor());
  auto client = co_await world.client("disk");
  EXPECT_EQ(co_await client->read(0, 4), Bytes(4));
  EXPECT_EQ(co_await world.remove("disk"), "export 'disk' still in use");
  EXPECT_EQ(co_await client->read(0, 4), Bytes(4));

  // A request in flight keeps the export in the list, but nobody finds it any more.
  world.disk.hold = &hold;
  EXPECT_TRUE(co_await client->request(Command::kRead, 0, 4));
  while (world.disk.reads < 3) co_await world.env.sleep(1000);
  EXPECT_EQ(co_await world.remove("disk", true), "");
  EXPECT_EQ(world.deleted(), Names{});
  EXPECT_TRUE(world.exports->query().at(0).shutting_down);
  EXPECT_EQ(co_await world.remove("disk", true), "Export 'disk' is already shutting down");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk")),
            "Block export id 'disk' is already in use");
  auto other = co_await world.connect();
  EXPECT_TRUE(co_await other->hello());
  const auto answers = co_await other->option(Option::kGo, info_data("disk"));
  EXPECT_EQ(answers.back().text(), "export 'disk' not present");
  EXPECT_TRUE(co_await client->at_end());

  hold.set();
  while (!world.exports->empty()) co_await world.env.sleep(1000);
  EXPECT_EQ(world.deleted(), Names{"disk"});
  EXPECT_EQ(co_await world.add(World::options("disk", "disk")), "");

  // With nobody connected the event comes before the answer.
  EXPECT_EQ(co_await world.remove("disk"), "");
  EXPECT_EQ(world.deleted(), (Names{"disk", "disk"}));
}
TEST(ExportRegistry, Removal) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(removal(world));
  });
}

Task<void> stop_ends_everything(World& world) {
  co_await world.start_with_disk();
  auto second = World::options("second", "disk");
  std::get<schema::BlockExportOptionsNbd>(second.u).name = "second";
  EXPECT_EQ(co_await world.add(second), "");
  auto reader = co_await world.client("second");
  auto writer = co_await world.client("disk");
  auto silent = co_await world.connect();
  EXPECT_TRUE(co_await writer->request(Command::kWrite, 0, 400'000, 0, 1, Bytes(200'000)));
  EXPECT_EQ(co_await world.stop(), "");
  EXPECT_EQ(world.deleted().size(), 2u);
  EXPECT_EQ(world.server->connections(), 0u);
  EXPECT_TRUE(co_await reader->at_end());
  EXPECT_TRUE(co_await writer->at_end());
  EXPECT_EQ(co_await world.connect(), nullptr);
  EXPECT_EQ(co_await world.stop(), "NBD server not running");
  // And again from the beginning.
  EXPECT_EQ(co_await world.start(), "");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk", true)), "");
  auto client = co_await world.client("disk");
  EXPECT_EQ(co_await client->read(0, 4), Bytes(4));
}
TEST(ExportRegistry, StopEndsEverything) {
  sim::for_each_seed(40, [](uint64_t seed) {
    World world(seed);
    world.env.run(stop_ends_everything(world));
  });
}

Task<void> clients_that_do_not_read(World& world) {
  co_await world.start_with_disk();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) {
    auto client = co_await world.client("disk");
    Bytes out;
    for (uint64_t handle = 0; handle < 200; ++handle) {
      out = std::move(out) + request_bytes(Request{kRequestMagic, kFlagDf, 0, handle, 0, 60'000});
    }
    EXPECT_TRUE(co_await client->send(std::move(out)));
    clients.push_back(std::move(client));
  }
  // Until the replies stand in the way of one another.
  uint64_t before = 0;
  do {
    before = world.disk.reads;
    co_await world.env.sleep(100'000'000);
  } while (world.disk.reads != before);
  EXPECT_LT(world.disk.reads, 600u);
  EXPECT_EQ(co_await world.remove("disk", true), "");
  EXPECT_EQ(co_await world.stop(), "");
  EXPECT_EQ(world.deleted(), Names{"disk"});
}
TEST(NbdServer, ClientsThatDoNotReadHoldNothingUp) {
  sim::for_each_seed(20, [](uint64_t seed) {
    World world(seed);
    world.env.run(clients_that_do_not_read(world));
  });
}

Task<void> only_so_many_clients(World& world) {
  EXPECT_EQ(co_await world.start(2), "");
  co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk")), "");
  auto first = co_await world.client("disk");
  auto second = co_await world.client("disk");
  auto third = co_await world.connect();
  co_await world.env.sleep(1'000'000'000);
  EXPECT_EQ(world.server->connections(), 2u);
  first->hang_up();
  EXPECT_TRUE(co_await third->go("disk"));
  EXPECT_EQ(co_await third->read(0, 4), Bytes(4));
  EXPECT_TRUE(third->flags() & kCanMultiConn);
}
TEST(NbdServer, OnlySoManyClients) {
  World world(3);
  world.env.run(only_so_many_clients(world));
}

Task<void> a_server_for_one(World& world) {
  EXPECT_EQ(co_await world.start(1), "");
  co_await world.open_node("disk");
  EXPECT_EQ(co_await world.add(World::options("disk", "disk", true)), "");
  auto client = co_await world.client("disk");
  EXPECT_FALSE(client->flags() & kCanMultiConn);
}
TEST(NbdServer, AServerForOneClientDoesNotOfferMore) {
  World world(4);
  world.env.run(a_server_for_one(world));
}

Task<void> silence_is_cut_off(World& world) {
  co_await world.start_with_disk();
  auto silent = co_await world.connect();
  auto slow = co_await world.connect();
  EXPECT_TRUE(co_await slow->hello());
  auto quick = co_await world.client("disk");
  const int64_t begin = world.env.now();
  EXPECT_TRUE(co_await silent->receive(kGreetingSize));
  EXPECT_TRUE(co_await silent->at_end());
  EXPECT_TRUE(co_await slow->at_end());
  EXPECT_NEAR(static_cast<double>(world.env.now() - begin), NbdServer::kHandshakeNs, 1e9);
  // Who has finished may be silent as long as it likes.
  co_await world.env.sleep(3 * NbdServer::kHandshakeNs);
  EXPECT_EQ(co_await quick->read(0, 4), Bytes(4));
}
TEST(NbdServer, SilenceInTheHandshakeIsCutOff) {
  World world(5);
  world.env.run(silence_is_cut_off(world));
}

Task<void> the_size_is_fixed(World& world) {
  co_await world.start_with_disk();
  Backend resizer(*world.graph, "", {Permissions(Permission::kResize), Permissions::all()});
  EXPECT_EQ(World::text(resizer.insert(*world.graph->find_node("disk"))),
            "Permission conflict on node 'disk': permissions 'resize' are both required by an "
            "unnamed block device "
            "(uses node 'disk' as 'root' child) and unshared by an unnamed block device (uses node "
            "'disk' as 'root' "
            "child).");
  EXPECT_EQ(co_await world.remove("disk"), "");
  EXPECT_EQ(World::text(resizer.insert(*world.graph->find_node("disk"))), "");
  co_await resizer.remove();
}
TEST(ExportRegistry, TheSizeIsFixedWhileExported) {
  World world(6);
  world.env.run(the_size_is_fixed(world));
}

}  // namespace
}  // namespace blockbed::nbd
