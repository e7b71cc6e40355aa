#include "qmp/commands/qemu_io.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "block/graph/graph.h"
#include "block/runtime/env.h"
#include "qmp/commands/qemu_io_call.h"
#include "qmp/commands/qemu_io_reopen.h"

namespace blockbed::qemu_io {

namespace {

constexpr Permissions kNone;
constexpr Permissions kWrites = Permission::kWrite;
constexpr Permissions kResizes = Permission::kWrite | Permission::kResize;

}  // namespace

const Runner::Entry* Runner::find(std::string_view name) {
  static const Entry kEntries[] = {
      {"abort", "", &Runner::abort, 0, 0, "", kNone, "", "simulate a program crash using abort(3)"},
      {"aio_flush", "", &Runner::aio_flush, 0, 0, "", kNone, "",
       "completes all outstanding aio requests"},
      {"aio_read", "", &Runner::aio_read, 2, -1, "CP:iqv", kNone,
       "[-Ciqv] [-P pattern] off len [len..]", "asynchronously reads a number of bytes"},
      {"aio_write", "", &Runner::aio_write, 2, -1, "CfiP:quz", kWrites,
       "[-Cfiquz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes"},
      {"alloc", "", &Runner::alloc, 1, 2, "", kNone, "offset [count]",
       "checks if offset is allocated in the file"},
      {"break", "", &Runner::set_break, 2, 2, "", kNone, "event tag",
       "sets a breakpoint on event and tags the stopped request as tag"},
      {"discard", "d", &Runner::discard, 2, -1, "Cq", kWrites, "[-Cq] off len",
       "discards a number of bytes at a specified offset"},
      {"flush", "f", &Runner::flush, 0, 0, "", kNone, "", "flush all in-core file state to disk"},
      {"help", "?", &Runner::help, 0, 1, "", kNone, "[command]", "help for one or all commands"},
      {"info", "i", &Runner::info, 0, 0, "", kNone, "",
       "prints information about the current file"},
      {"length", "l", &Runner::length, 0, 0, "", kNone, "", "gets the length of the current file"},
      {"map", "", &Runner::map, 0, 0, "", kNone, "", "prints the allocated areas of a file"},
      {"read", "r", &Runner::read, 2, -1, "bCl:pP:qs:v", kNone,
       "[-abCqv] [-P pattern [-s off] [-l len]] off len",
       "reads a number of bytes at a specified offset"},
      {"readv", "rv", &Runner::read_vector, 2, -1, "CP:qv", kNone,
       "[-Cqv] [-P pattern] off len [len..]", "reads a number of bytes at a specified offset"},
      {"remove_break", "", &Runner::remove_break, 1, 1, "", kNone, "tag",
       "remove a breakpoint by tag"},
      {"reopen", "", &Runner::reopen, 0, -1, "c:rwo:", kNone, "[(-r|-w)] [-c cache] [-o options]",
       "reopens an image with new options"},
      {"resume", "", &Runner::resume, 1, 1, "", kNone, "tag", "resumes the request tagged as tag"},
      {"sigraise", "", &Runner::raise_signal, 1, 1, "", kNone, "signal", "raises a signal"},
      {"sleep", "", &Runner::sleep, 1, 1, "", kNone, "",
       "waits for the given value in milliseconds"},
      {"truncate", "t", &Runner::truncate, 1, 3, "m:", kResizes, "[-m prealloc_mode] off",
       "truncates the current file at the given offset"},
      {"wait_break", "", &Runner::wait_break, 1, 1, "", kNone, "tag",
       "waits for the suspension of a request"},
      {"write", "w", &Runner::write, 2, -1, "bcCfnpP:qs:uz", kWrites,
       "[-bcCfnquz] [-P pattern | -s source_file] off len",
       "writes a number of bytes at a specified offset"},
      {"writev", "wv", &Runner::write_vector, 2, -1, "CfqP:", kWrites,
       "[-Cfq] [-P pattern] off len [len..]", "writes a number of bytes at a specified offset"},
      {}};
  if (name.empty()) return kEntries;
  for (const Entry* entry = kEntries; !entry->name.empty(); ++entry) {
    if (entry->name == name || (!entry->short_name.empty() && entry->short_name == name))
      return entry;
  }
  return nullptr;
}

Runner::Runner(Graph& graph, Print print, Print warn)
    : graph_(graph),
      print_(std::move(print)),
      warn_(std::move(warn)),
      breakpoint_print_(print_),
      gate_(graph.executor()) {}
Runner::~Runner() = default;

Task<void> Runner::finish() { co_await gate_.wait_idle(); }

Task<void> Runner::run(Backend& backend, std::string line, std::string& complaints) {
  const std::vector<std::string> parts = words(line);
  if (parts.empty()) co_return;
  const Entry* entry = find(parts.front());
  if (entry == nullptr) {
    warn_(fmt::format("command \"{}\" not found\n", parts.front()));
    co_return;
  }
  const int count = static_cast<int>(parts.size()) - 1;
  if (count < entry->at_least || (entry->at_most >= 0 && count > entry->at_most)) {
    const std::string expected =
        entry->at_most < 0 ? fmt::format("at least {}", entry->at_least)
        : entry->at_least == entry->at_most
            ? fmt::format("{}", entry->at_least)
            : fmt::format("between {} and {}", entry->at_least, entry->at_most);
    warn_(fmt::format("bad argument count {} to {}, expected {} arguments\n", count, parts.front(),
                      expected));
    co_return;
  }
  if (backend.node() != nullptr) {
    PermissionPair wanted = backend.wanted_permissions();
    if (!(entry->needs - wanted.needs).empty()) {
      wanted.needs |= entry->needs;
      if (auto changed = backend.set_permissions(wanted); !changed) {
        complaints += changed.error().description + "\n";
        co_return;
      }
    }
  }
  std::string complaint;
  auto arguments = parse_arguments(parts, entry->letters, complaint);
  if (!arguments) {
    warn_(complaint);
    print_(entry->usage());
    co_return;
  }
  Call call{backend, *entry, std::move(*arguments), complaints};
  co_await (this->*entry->run)(call);
}

bool Runner::number(const std::string& text, uint64_t& out) {
  const Number parsed = parse_number(text);
  if (!parsed.value) {
    print_(parsed.complaint);
    return false;
  }
  out = *parsed.value;
  return true;
}

Task<void> Runner::abort(Call& /*call*/) {
  std::abort();
  co_return;
}

Task<void> Runner::raise_signal(Call& call) {
  const std::string& text = call.arguments.positional[0];
  uint64_t signal = 0;
  if (!number(text, signal)) co_return;
  if (signal > NSIG) {
    print_(fmt::format("signal argument '{}' is too large to be a valid signal\n", text));
    co_return;
  }
  // There is none of this number: nothing happens, as in QEMU.
  (void)std::raise(static_cast<int>(signal));
}

Task<void> Runner::sleep(Call& call) {
  const std::string& text = call.arguments.positional[0];
  const Number milliseconds = parse_number(text);
  if (!milliseconds.value) {
    print_(fmt::format("{} is not a valid number\n", text));
    co_return;
  }
  // Longer than any program runs, and no overflow.
  constexpr uint64_t kMaxMilliseconds = uint64_t{1} << 40;
  co_await graph_.env().sleep(
      static_cast<int64_t>(std::min(*milliseconds.value, kMaxMilliseconds)) * 1'000'000);
}
Task<void> Runner::reopen(Call& call) {
  if (!call.arguments.positional.empty()) {
    print_(call.entry.usage());
    co_return;
  }
  auto done = co_await reopen_as_told(graph_, call.backend, std::move(call.arguments));
  if (done) co_return;
  call.complaints += done.error().description + "\n";
  if (!done.error().hint.empty()) call.complaints += done.error().hint + "\n";
}

Task<void> Runner::help(Call& call) {
  if (call.arguments.positional.empty()) {
    for (const Entry* entry = find(""); !entry->name.empty(); ++entry) {
      print_(entry->usage());
    }
    print_("\nUse 'help commandname' for extended help.\n");
    co_return;
  }
  const std::string& name = call.arguments.positional[0];
  const Entry* entry = find(name);
  print_(entry == nullptr ? fmt::format("command {} not found\n", name) : entry->usage());
}

}  // namespace blockbed::qemu_io
