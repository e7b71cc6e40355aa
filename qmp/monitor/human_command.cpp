#include "qmp/monitor/human_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "qmp/monitor/command_context.h"
#include "qmp/monitor/monitor.h"

namespace blockbed {
namespace {

constexpr std::string_view kSpaces = " \t";

std::string_view skip_spaces(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

// The command's name at the front of `line`; a slash ends it too (`x/4`).
std::string_view take_name(std::string_view& line) {
  line = skip_spaces(line);
  const std::string_view name = line.substr(0, line.find_first_of(" \t/"));
  line.remove_prefix(name.size());
  return name;
}

// `names` is "stop|s".
bool is_called(std::string_view names, std::string_view name) {
  while (true) {
    const size_t bar = names.find('|');
    if (names.substr(0, bar) == name) return true;
    if (bar == std::string_view::npos) return false;
    names.remove_prefix(bar + 1);
  }
}

const HumanCommand* find(const std::vector<HumanCommand>& commands, std::string_view name) {
  const auto it = std::ranges::find_if(
      commands, [name](const HumanCommand& command) { return is_called(command.name, name); });
  return it == commands.end() ? nullptr : &*it;
}

// The table is kept in the order in which `help` lists it.
void insert(std::vector<HumanCommand>& commands, HumanCommand command) {
  const auto place = std::ranges::upper_bound(commands, command.name, {}, &HumanCommand::name);
  commands.insert(place, std::move(command));
}

void describe(HumanContext& context, std::string_view prefix, const HumanCommand& command) {
  context.print(
      fmt::format("{}{} {} -- {}\n", prefix, command.name, command.parameters, command.help));
}

void describe_all(HumanContext& context, std::string_view prefix,
                  const std::vector<HumanCommand>& commands) {
  for (const HumanCommand& command : commands) describe(context, prefix, command);
}

void unknown(HumanContext& context, std::string_view name) {
  context.print(fmt::format("unknown command: '{}'\n", name));
}

}  // namespace

std::string to_crlf(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  for (const char c : text) {
    if (c == '\n') out += '\r';
    out += c;
  }
  return out;
}

void HumanContext::print(const Error& error) {
  print(error.description + "\n");
  if (!error.hint.empty()) print(error.hint + "\n");
}

Task<Expected<json::Value>> HumanContext::execute(std::string command, json::Object arguments) {
  CommandContext qmp(monitor_, nullptr, nullptr);
  co_return co_await monitor_.execute(qmp, std::move(command), std::move(arguments), false);
}

Task<Expected<void>> HumanContext::run(std::string command, json::Object arguments) {
  auto done = co_await execute(std::move(command), std::move(arguments));
  if (!done) co_return fail(std::move(done).error());
  co_return Expected<void>();
}

HumanTable::HumanTable() {
  const std::vector<HumanArgument> subject = {{"name", HumanKind::kRest, true}};
  add({.name = "help|?",
       .arguments = subject,
       .parameters = "[cmd]",
       .help = "show the help",
       .run = [this](HumanContext& context, HumanArguments arguments) -> Task<Expected<void>> {
         help(context, arguments.text("name"));
         co_return Expected<void>();
       }});
  add({.name = "info",
       .arguments = {},
       .parameters = "[subcommand]",
       .help = "show various information about the system state",
       .run = [this](HumanContext& context, HumanArguments) -> Task<Expected<void>> {
         describe_all(context, "info ", info_);
         co_return Expected<void>();
       }});
}

void HumanTable::add(HumanCommand command) { insert(commands_, std::move(command)); }
void HumanTable::add_info(HumanCommand command) { insert(info_, std::move(command)); }

void HumanTable::help(HumanContext& context, std::string_view about) const {
  std::string_view rest = about;
  const std::string_view name = take_name(rest);
  if (name.empty()) {
    describe_all(context, "", commands_);
    return;
  }
  const HumanCommand* command = find(commands_, name);
  if (command == nullptr) return unknown(context, name);
  const std::string_view what = take_name(rest);
  if (name != "info" || what.empty()) {
    if (name == "info") return describe_all(context, "info ", info_);
    return describe(context, "", *command);
  }
  const HumanCommand* info = find(info_, what);
  if (info == nullptr) return unknown(context, fmt::format("{} {}", name, what));
  describe(context, "info ", *info);
}

Task<void> HumanTable::execute(HumanContext& context, std::string line) const {
  std::string_view rest = line;
  std::string typed(take_name(rest));
  if (typed.empty()) co_return;
  const HumanCommand* command = find(commands_, typed);
  if (command == nullptr) {
    unknown(context, typed);
    co_return;
  }
  if (typed == "info" && !skip_spaces(rest).empty()) {
    typed = fmt::format("info {}", take_name(rest));
    command = find(info_, std::string_view(typed).substr(5));
    if (command == nullptr) {
      unknown(context, typed);
      co_return;
    }
  }
  auto arguments = parse_human_arguments(command->name, command->arguments, rest);
  if (!arguments) {
    std::string_view complaint = arguments.error().description;
    if (const size_t line_end = complaint.find('\n'); line_end != std::string_view::npos) {
      context.monitor().print(complaint.substr(0, line_end + 1));
      complaint.remove_prefix(line_end + 1);
    }
    context.print(fmt::format("{}\nTry \"help {}\" for more information\n", complaint, typed));
    co_return;
  }
  auto task = command->run(context, *std::move(arguments));
  const Expected<void> done = co_await std::move(task);
  if (done) co_return;
  context.print("Error: ");
  context.print(done.error());
}

std::vector<std::string> HumanTable::complete(std::string_view begun) const {
  const std::vector<HumanCommand>* table = &commands_;
  if (begun.starts_with("info ")) {
    table = &info_;
    begun = skip_spaces(begun.substr(5));
  }
  std::vector<std::string> names;
  if (begun.find_first_of(kSpaces) != std::string_view::npos) return names;
  for (const HumanCommand& command : *table) {
    std::string_view aliases = command.name;
    while (!aliases.empty()) {
      const std::string_view name = aliases.substr(0, aliases.find('|'));
      if (name.starts_with(begun)) names.emplace_back(name);
      aliases.remove_prefix(std::min(aliases.size(), name.size() + 1));
    }
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace blockbed
