#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "qmp/monitor/human_arguments.h"
#include "qmp/monitor/human_command.h"
#include "qmp/monitor/line_editor.h"
#include "tests/monitor/client_fixture.h"
#include "tests/support/seed_runner.h"

namespace blockbed::test {
namespace {

using testing::ElementsAre;

std::string complaint(const std::vector<HumanArgument>& expected, std::string_view line) {
  const auto parsed = parse_human_arguments("cmd", expected, line);
  return parsed ? "" : parsed.error().description;
}

TEST(HumanArguments, Words) {
  const std::vector<HumanArgument> expected = {
      {"f", HumanKind::kFlag}, {"a"}, {"b", HumanKind::kString, true}};
  auto parsed = parse_human_arguments("cmd", expected, "  -f  one \"two \\\"and\\n\" ");
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->flag("f"));
  EXPECT_EQ(parsed->text("a"), "one");
  EXPECT_EQ(parsed->text("b"), "two \"and\n");
  parsed = parse_human_arguments("cmd", expected, "one");
  ASSERT_TRUE(parsed);
  EXPECT_FALSE(parsed->flag("f"));
  EXPECT_FALSE(parsed->has("b"));
}

TEST(HumanArguments, ComplaintsAreQemus) {
  EXPECT_EQ(complaint({{"a"}}, ""), "cmd: string expected");
  EXPECT_EQ(complaint({{"a", HumanKind::kBlockDevice}}, " "), "cmd: block device name expected");
  EXPECT_EQ(complaint({{"a", HumanKind::kFilename}}, ""), "cmd: filename expected");
  EXPECT_EQ(complaint({{"a", HumanKind::kRest}}, ""), "cmd: string expected");
  EXPECT_EQ(complaint({}, "x"), "cmd: extraneous characters at the end of line");
  EXPECT_EQ(complaint({{"f", HumanKind::kFlag}}, "-z"), "cmd: unsupported option -z");
  EXPECT_EQ(complaint({{"f", HumanKind::kFlag}, {"g", HumanKind::kFlag}}, "-g"), "");
  EXPECT_EQ(complaint({{"a"}}, "\"x"), "unterminated string\ncmd: string expected");
  EXPECT_EQ(complaint({{"a"}}, "\"\\q\""), "unsupported escape code: '\\q'\ncmd: string expected");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, ""), "unexpected end of expression");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, "x"), "invalid char 'x' in expression");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, "1/0"), "division by zero");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, "(1"), "')' expected");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, std::string(30, '9')), "number too large");
  EXPECT_EQ(complaint({{"n", HumanKind::kInteger}}, std::string(100000, '(')),
            "expression nested too deeply");
  EXPECT_EQ(complaint({{"s", HumanKind::kSize}}, "x"), "invalid size");
  EXPECT_EQ(complaint({{"s", HumanKind::kSize}}, "-1"), "invalid size");
  EXPECT_EQ(complaint({{"s", HumanKind::kSize}}, "99999999E"), "invalid size");
  EXPECT_EQ(complaint({{"s", HumanKind::kSize}}, "1x"),
            "cmd: extraneous characters at the end of line");
  EXPECT_EQ(complaint({{"o", HumanKind::kOnOff}}, "maybe"), "Expected 'on' or 'off'");
}

TEST(HumanArguments, Numbers) {
  const auto integer = [](std::string_view line) {
    return parse_human_arguments("cmd", {{"n", HumanKind::kInteger}}, line)->integer("n");
  };
  EXPECT_EQ(integer("12"), 12);
  EXPECT_EQ(integer("0x1F"), 31);
  EXPECT_EQ(integer("017"), 15);
  EXPECT_EQ(integer("-3 + 2*(4-1)"), 3);
  EXPECT_EQ(integer("7%4"), 3);
  EXPECT_EQ(integer("'a'"), 97);
  EXPECT_EQ(integer("~0"), -1);
  EXPECT_EQ(integer("-9223372036854775807-1"), INT64_MIN);
  EXPECT_EQ(integer("(-9223372036854775807-1)/-1"), INT64_MIN);
  const auto size = [](std::string_view line) {
    return parse_human_arguments("cmd", {{"s", HumanKind::kSize}}, line)->size("s");
  };
  EXPECT_EQ(size("3"), 3U << 20);
  EXPECT_EQ(size("1.5k"), 1536U);
  EXPECT_EQ(size("512B"), 512U);
  EXPECT_EQ(size("2G"), uint64_t{2} << 30);
}

// What the terminal gets for these keys.
std::string echo(LineEditor& editor, std::string_view keys, std::vector<std::string>* lines = {}) {
  std::string out;
  for (const char key : keys) {
    auto line = editor.feed(static_cast<unsigned char>(key), out);
    if (!line) continue;
    if (lines != nullptr) lines->push_back(*line);
    editor.show_prompt(out);
  }
  return out;
}

LineEditor editor() {
  return {"> ", [](std::string_view begun) {
            return begun == "q" ? std::vector<std::string>{"qemu-io", "quit"}
                                : std::vector<std::string>{"info"};
          }};
}

// The expected texts are what QEMU 7.2 sent for the same keys.
TEST(LineEditor, Echo) {
  LineEditor line = editor();
  EXPECT_EQ(echo(line, "inf"), "i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinf\x1b[K");
  EXPECT_EQ(echo(line, "\n"), "\n> ");
  EXPECT_EQ(echo(line,
                 "a\x01"
                 "b\x05"
                 "c\n"),
            "a\x1b[K\x1b[Dba\x1b[K\x1b[D\x1b[C\x1b[D\x1b[Dbac\x1b[K\n> ");
  EXPECT_EQ(echo(line, "ab\x7f"), "a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[Da\x1b[K");
}

TEST(LineEditor, LinesAndHistory) {
  LineEditor line = editor();
  std::vector<std::string> lines;
  echo(line, "one\rtwo\n\n\x1b[A\x1b[A\n\x1b[A\x1b[B!\nabc\x1b[D\x1b[3~\x1b[1~x\nfoo bar\x17z\n",
       &lines);
  EXPECT_THAT(lines, ElementsAre("one", "two", "", "one", "!", "xab", "foo z"));
}

TEST(LineEditor, Completion) {
  LineEditor line = editor();
  EXPECT_EQ(echo(line, "in\t"), "i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinfo \x1b[K");
  echo(line, "\n");
  EXPECT_EQ(echo(line, "q\t"), "q\x1b[K\nqemu-io   quit      \n> q\x1b[K");
}

TEST(LineEditor, LengthIsBounded) {
  LineEditor line = editor();
  std::vector<std::string> lines;
  echo(line, std::string(LineEditor::kMaxLine + 1, 'x') + "\n", &lines);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].size(), LineEditor::kMaxLine);
}

void add_commands(HumanTable& table) {
  table.add({.name = "stop|s",
             .arguments = {},
             .parameters = "",
             .help = "stop emulation",
             .run = [](HumanContext&, HumanArguments) -> Task<Expected<void>> {
               co_return Expected<void>();
             }});
  table.add({.name = "fail",
             .arguments = {{"why"}},
             .parameters = "why",
             .help = "fail",
             .run = [](HumanContext& context, HumanArguments arguments) -> Task<Expected<void>> {
               context.print("failing\n");
               co_return fail(arguments.text("why"));
             }});
  table.add({.name = "quit|q",
             .arguments = {},
             .parameters = "",
             .help = "quit",
             .run = [](HumanContext& context, HumanArguments) -> Task<Expected<void>> {
               context.end_session();
               co_return Expected<void>();
             }});
  table.add_info({.name = "name",
                  .arguments = {},
                  .parameters = "",
                  .help = "show the current VM name",
                  .run = [](HumanContext& context, HumanArguments) -> Task<Expected<void>> {
                    context.print("test\n");
                    co_return Expected<void>();
                  }});
}

Task<void> over_qmp(Server& server) {
  Client client = server.connect();
  co_await client.negotiate();
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"", ""},
      {"s", ""},
      {"stop", ""},
      {"foo bar", R"(unknown command: 'foo'\r\n)"},
      {"info foo", R"(unknown command: 'info foo'\r\n)"},
      {"info name", R"(test\r\n)"},
      {"stop 1", R"(stop|s: extraneous characters at the end of line\r\n)"
                 R"(Try \"help stop\" for more information\r\n)"},
      {"info name x", R"(name: extraneous characters at the end of line\r\n)"
                      R"(Try \"help info name\" for more information\r\n)"},
      {"fail because", R"(failing\r\nError: because\r\n)"},
      {"help s", R"(stop|s  -- stop emulation\r\n)"},
      {"help info name", R"(info name  -- show the current VM name\r\n)"},
      {"? foo", R"(unknown command: 'foo'\r\n)"},
      {"info", R"(info name  -- show the current VM name\r\n)"},
  };
  for (const auto& [line, answer] : expected) {
    EXPECT_EQ(
        co_await client.ask(R"({"execute":"human-monitor-command","arguments":{"command-line":")" +
                            line + "\"}}"),
        R"({"return": ")" + answer + "\"}");
  }
}

TEST(HumanMonitor, OverQmp) {
  Server server(1);
  add_commands(server.human);
  server.run(over_qmp(server));
}

Task<void> typed(Server& server) {
  Client client = server.connect(MonitorMode::kHuman);
  EXPECT_EQ(co_await client.line(), "QEMU 7.2.22 monitor - type 'help' for more information");
  EXPECT_EQ(co_await client.until("(qemu) "), "(qemu) ");
  co_await client.send("s\nfail x\nq\nnever\n");
  EXPECT_EQ(co_await client.until("(qemu) "), "s\x1b[K\r\n(qemu) ");
  EXPECT_THAT(co_await client.until("(qemu) "),
              testing::EndsWith("fail x\x1b[K\r\nfailing\r\nError: x\r\n(qemu) "));
  EXPECT_EQ(co_await client.until("\r\n"), "q\x1b[K\r\n");
  Gate stopping(server.env.executor());
  stopping.spawn(server.monitor->stop());
  EXPECT_EQ(co_await client.rest(), "");
  co_await stopping.close();
}

TEST(HumanMonitor, Session) {
  sim::for_each_seed(50, [](uint64_t seed) {
    Server server(seed);
    add_commands(server.human);
    server.env.run(typed(server));
  });
}

}  // namespace
}  // namespace blockbed::test
