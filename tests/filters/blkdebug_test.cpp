// Rules, breakpoints and files of rules of blkdebug, without a graph.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "block/filters/blkdebug_config.h"
#include "block/filters/blkdebug_rules.h"
#include "block/runtime/gate.h"
#include "block/sim/sim_env.h"

namespace blockbed {
namespace {

class Blkdebug : public ::testing::Test {
 public:
  sim::SimEnv env{1};
  bool passing = false;
  DebugRules rules{env.executor(), [this] { return passing; }};

  void event(DebugEvent e) {
    DebugPoint point(&rules, e);
    EXPECT_TRUE(point.await_ready());
  }
  int error(DebugIo io = DebugIo::kRead, uint64_t offset = 0, uint64_t length = 512) {
    const auto fault = rules.check(io, offset, length);
    return fault ? fault->error : 0;
  }
  static InjectErrorRule inject(DebugEvent e, int number, int state = 0) {
    InjectErrorRule rule;
    rule.event = e;
    rule.error = number;
    rule.state = state;
    return rule;
  }
};

TEST_F(Blkdebug, RulesStayActiveUntilOthersAre) {
  rules.add(inject(DebugEvent::kL2Load, EIO));
  rules.add(inject(DebugEvent::kReadAio, ENOSPC));
  rules.start();
  EXPECT_EQ(error(), 0);
  event(DebugEvent::kL2Load);
  EXPECT_EQ(error(), EIO);
  event(DebugEvent::kWriteAio);
  EXPECT_EQ(error(), EIO);
  event(DebugEvent::kReadAio);
  EXPECT_EQ(error(), ENOSPC);
}

TEST_F(Blkdebug, StatesAreThoseBeforeTheEvent) {
  rules.add(inject(DebugEvent::kReadAio, EIO, 2));
  rules.add(SetStateRule{DebugEvent::kReadAio, 1, 2});
  rules.add(SetStateRule{DebugEvent::kReadAio, 2, 3});
  event(DebugEvent::kReadAio);
  EXPECT_EQ(rules.state(), 2);
  EXPECT_EQ(error(), 0);
  event(DebugEvent::kReadAio);
  EXPECT_EQ(rules.state(), 3);
  EXPECT_EQ(error(), EIO);
}

TEST_F(Blkdebug, OnceSectorAndKind) {
  InjectErrorRule rule = inject(DebugEvent::kNone, EIO);
  rule.once = true;
  rule.sector = 3;
  rule.io = debug_io_bit(DebugIo::kWrite);
  rules.add(rule);
  rules.start();
  EXPECT_EQ(error(DebugIo::kRead, 1536, 512), 0);
  EXPECT_EQ(error(DebugIo::kWrite, 1024, 512), 0);
  EXPECT_EQ(error(DebugIo::kWrite, 2048, 512), 0);
  EXPECT_EQ(error(DebugIo::kWrite, 1537, 511), 0);
  EXPECT_EQ(error(DebugIo::kWrite, 0, 1537), EIO);
  EXPECT_EQ(error(DebugIo::kWrite, 1536, 512), 0);
  rules.start();
  EXPECT_EQ(error(DebugIo::kWrite, 1536, 512), 0) << "used up";
}

TEST_F(Blkdebug, BlockStatusIsAskedForByName) {
  rules.add(inject(DebugEvent::kNone, EIO));
  rules.start();
  for (const DebugIo io :
       {DebugIo::kRead, DebugIo::kWrite, DebugIo::kZero, DebugIo::kDiscard, DebugIo::kFlush}) {
    EXPECT_EQ(error(io), EIO);
  }
  EXPECT_EQ(error(DebugIo::kStatus), 0);
}

Task<void> come(DebugRules& rules, DebugEvent event, int& arrived) {
  co_await DebugPoint(&rules, event);
  ++arrived;
}

TEST_F(Blkdebug, BreakpointsHoldOneRequestEach) {
  int arrived = 0;
  std::string said;
  const auto print = [&said](std::string_view text) { said += text; };
  EXPECT_FALSE(rules.set_breakpoint("nonsense", "A", print));
  ASSERT_TRUE(rules.set_breakpoint("write_aio", "A", print));
  ASSERT_TRUE(rules.set_breakpoint("write_aio", "B", print));
  env.run([](Blkdebug& t, int& count) -> Task<void> {
    Gate gate(t.env.executor());
    gate.spawn(come(t.rules, DebugEvent::kWriteAio, count));
    co_await t.env.executor().yield();
    EXPECT_EQ(count, 0);
    EXPECT_TRUE(t.rules.is_suspended("A"));
    EXPECT_TRUE(t.rules.is_suspended("B"));
    gate.spawn(come(t.rules, DebugEvent::kWriteAio, count));
    co_await t.env.executor().yield();
    EXPECT_EQ(count, 1) << "the breakpoints are used up";
    EXPECT_TRUE(t.rules.resume("A"));
    co_await t.env.executor().yield();
    EXPECT_EQ(count, 1) << "B still holds it";
    EXPECT_TRUE(t.rules.resume("B"));
    co_await gate.close();
    EXPECT_EQ(count, 2);
    EXPECT_FALSE(t.rules.resume("B"));
  }(*this, arrived));
  EXPECT_EQ(said,
            "blkdebug: Suspended request 'B'\nblkdebug: Suspended request 'A'\n"
            "blkdebug: Resuming request 'A'\nblkdebug: Resuming request 'B'\n");
}

TEST_F(Blkdebug, RemovingLetsGo) {
  int arrived = 0;
  ASSERT_TRUE(rules.set_breakpoint("read_aio", "A", nullptr));
  env.run([](Blkdebug& t, int& count) -> Task<void> {
    Gate gate(t.env.executor());
    gate.spawn(come(t.rules, DebugEvent::kReadAio, count));
    co_await t.env.executor().yield();
    EXPECT_EQ(t.rules.remove_breakpoint("A").error().number(), ENOENT);
    co_await gate.close();
  }(*this, arrived));
  EXPECT_EQ(arrived, 1);
  passing = true;
  ASSERT_TRUE(rules.set_breakpoint("read_aio", "A", nullptr));
  event(DebugEvent::kReadAio);
  EXPECT_TRUE(rules.remove_breakpoint("A"));
}

TEST_F(Blkdebug, BreakpointsAreBounded) {
  for (std::size_t i = 0; i < DebugRules::kMaxBreakpoints; ++i) {
    ASSERT_TRUE(rules.set_breakpoint("read_aio", "A", nullptr));
  }
  EXPECT_EQ(rules.set_breakpoint("read_aio", "A", nullptr).error().number(), ENOMEM);
}

std::string config_error(std::string_view text) {
  auto parsed = parse_debug_config(text);
  return parsed ? "" : parsed.error().description;
}

TEST(BlkdebugConfig, Rules) {
  auto parsed = parse_debug_config(
      "# text\n\n[inject-error]\nevent = \"l2_load\"\nerrno = \"0x1c\"\nonce = \"on\"\n"
      "sector = \"7\"\nstate = \"2\"\niotype = \"write\"\nimmediately = \"yes\"\n"
      "[set-state \"s\"]\nevent = \"read_aio\" and more\nnew_state = \"5\"\n");
  ASSERT_TRUE(parsed);
  ASSERT_EQ(parsed->inject.size(), 1u);
  const InjectErrorRule& rule = parsed->inject[0];
  EXPECT_EQ(rule.event, DebugEvent::kL2Load);
  EXPECT_EQ(rule.error, 28);
  EXPECT_TRUE(rule.once && rule.immediately);
  EXPECT_EQ(rule.sector, 7);
  EXPECT_EQ(rule.state, 2);
  EXPECT_EQ(rule.io, debug_io_bit(DebugIo::kWrite));
  ASSERT_EQ(parsed->set_state.size(), 1u);
  EXPECT_EQ(parsed->set_state[0].new_state, 5);
}

TEST(BlkdebugConfig, Faults) {
  EXPECT_EQ(config_error("event = \"read_aio\"\n"), "no group defined");
  EXPECT_EQ(config_error("[foo]\n"), "There is no option group 'foo'");
  EXPECT_EQ(config_error("[inject-error\n"), "There is no option group 'inject-error\n'");
  EXPECT_EQ(config_error("[inject-error]\nnonsense here\n"), "Invalid parameter 'nonsense'");
  EXPECT_EQ(config_error("[inject-error]\nevent=\"read_aio\"\n"),
            "Invalid parameter 'event=\"read_aio\"'");
  EXPECT_EQ(config_error("[inject-error]\nevent = read_aio\n"), "invalid parameter value: ");
  EXPECT_EQ(config_error("[set-state]\nevent = \"read_aio\"\nnew_state = \"1k\"\n"),
            "Parameter 'new_state' expects a number");
  EXPECT_EQ(config_error(""), "");
}

}  // namespace
}  // namespace blockbed
