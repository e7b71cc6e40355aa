// What is told of nodes while a job that ends changes the graph.
#include <gtest/gtest.h>

#include "qmp/commands/block_query.h"
#include "qmp/commands/device_directory.h"
#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"
#include "tests/jobs/jobs_fixture.h"

namespace blockbed {
namespace {

using test::kKiB;
using test::World;

class QueryTest : public testing::Test {
 protected:
  QueryTest() { register_block_query_commands(commands, *world.graph, *world.jobs, devices); }

  Task<void> query(std::string_view name) {
    CommandContext context(monitor, nullptr, nullptr);
    const CommandResult result = co_await std::get<CoroutineCommand>(commands.find(name)->handler)(
        context, json::Value(json::Object()));
    EXPECT_TRUE(result.has_value());
    if (result) reply = *result;
  }

  World world{1};
  NoDevices devices;
  CommandTable commands{Manner::kSystem};
  HumanTable human;
  Monitor monitor{world.env, commands, human, MonitorOptions()};
  json::Value reply;
};

// Who looks at nodes holds the graph: otherwise what the job lets go of would stay open after it.
TEST_F(QueryTest, AJobThatEndsWaitsForTheAnswer) {
  Node& source = world.file("s", sim::SparseBytes(64 * kKiB));
  Node& target = world.file("t", sim::SparseBytes(64 * kKiB));
  BackupOptions options = world.options("j", source, target, BackupSync::kNone);
  options.filter_node_name = "filter";
  const auto job = world.run(world.backup(std::move(options)));
  ASSERT_TRUE(job.has_value());

  sim::FaultRule rule;
  rule.path = "s";
  rule.requests = sim::kSimInfo;
  rule.error = 0;
  rule.hold = true;
  const auto held = world.env.storage().add_fault(rule);
  Gate gate(world.env.executor());
  bool over = false, still_open = false;
  const auto end_job = [&]() -> Task<void> {
    EXPECT_TRUE((co_await world.jobs->cancel(*job, true)).has_value());
    co_await world.wait_for_end(*job);
    over = true;
    still_open = world.graph->find_node("filter") != nullptr;
  };
  const auto scenario = [&]() -> Task<void> {
    gate.spawn(query("query-named-block-nodes"));
    co_await world.env.storage().wait_for_hits(held, 1);
    gate.spawn(end_job());
    co_await world.env.delay(100'000'000);
    EXPECT_FALSE(over);
    world.env.storage().release(held);
    co_await gate.close();
  };
  world.run(scenario());
  EXPECT_TRUE(over);
  EXPECT_FALSE(still_open);
  EXPECT_EQ(reply.as_array().size(), 3u) << "the filter, and both files";
}

}  // namespace
}  // namespace blockbed
