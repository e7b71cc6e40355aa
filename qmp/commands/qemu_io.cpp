#include "qmp/commands/qemu_io.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/graph/drain.h"
#include "block/graph/graph.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/medium.h"
#include "block/graph/node.h"
#include "block/runtime/env.h"
#include "qmp/commands/block_report.h"
#include "qmp/commands/qemu_io_reopen.h"
#include "qmp/schema/json_write.h"
#include "schema/block_info.h"

namespace blockbed::qemu_io {

namespace {

// What buffers hold before a read and what a write without pattern writes: visible when a read
// fills too little.
constexpr unsigned char kUnreadByte = 0xab;
constexpr unsigned char kWrittenByte = 0xcd;
constexpr uint64_t kSector = 512;

const Permissions kWritePermission = Permission::kWrite;

}  // namespace

struct Runner::Call {
  Backend& backend;
  const Entry& entry;
  Arguments arguments;
  std::string& complaints;
};

struct Runner::Entry {
  std::string_view name;
  std::string_view short_name;
  Task<void> (Runner::*run)(Call&);
  int at_least;
  int at_most;  // -1: any number
  std::string_view letters;
  Permissions needs;
  std::string_view arguments;
  std::string_view help;
};

namespace {

// Text follows the order of JSON's keys (json_write.h).
std::vector<const json::Object::Member*> members_in_print_order(const json::Object& object) {
  std::vector<const json::Object::Member*> members;
  for (const json::Object::Member& member : object) members.push_back(&member);
  // Within a bucket the last one inserted comes first.
  std::ranges::sort(members, [](const auto* a, const auto* b) {
    const auto left = json::key_bucket(a->first), right = json::key_bucket(b->first);
    return left != right ? left < right : a > b;
  });
  return members;
}

Result<Node*> medium_of(Backend& backend) {
  Node* node = backend.node();
  if (node == nullptr || !has_medium(*node)) return io_error(ENOMEDIUM);
  return node;
}

Task<Result<uint64_t>> length_of(Backend& backend) {
  const auto node = medium_of(backend);
  if (!node) co_return io_error(node.error());
  co_return co_await (*node)->refresh_length();
}

// `request` is read_vm_state or write_vm_state.
using VmStateRequest = Task<Result<void>>(Node&, uint64_t, IoVector);
Task<Result<void>> beside_the_disk(Backend& backend, VmStateRequest& request, uint64_t position,
                                   IoVector buffers) {
  const auto node = medium_of(backend);
  if (!node) co_return io_error(node.error());
  co_return co_await request(**node, position, std::move(buffers));
}

std::string usage(std::string_view name, std::string_view arguments, std::string_view help) {
  return fmt::format("{} {} -- {}\n", name, arguments, help);
}

}  // namespace

const Runner::Entry* Runner::find(std::string_view name) {
  static const Entry kEntries[] = {
      {"aio_flush",
       "",
       &Runner::aio_flush,
       0,
       0,
       "",
       {},
       "",
       "completes all outstanding aio requests"},
      {"aio_read",
       "",
       &Runner::aio_read,
       2,
       -1,
       "CP:iqv",
       {},
       "[-Ciqv] [-P pattern] off len [len..]",
       "asynchronously reads a number of bytes"},
      {"aio_write", "", &Runner::aio_write, 2, -1, "CfiP:quz", kWritePermission,
       "[-Cfiquz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes"},
      {"alloc",
       "",
       &Runner::alloc,
       1,
       2,
       "",
       {},
       "offset [count]",
       "checks if offset is allocated in the file"},
      {"break",
       "",
       &Runner::set_break,
       2,
       2,
       "",
       {},
       "event tag",
       "sets a breakpoint on event and tags the stopped request as tag"},
      {"discard", "d", &Runner::discard, 2, -1, "Cq", kWritePermission, "[-Cq] off len",
       "discards a number of bytes at a specified offset"},
      {"flush", "f", &Runner::flush, 0, 0, "", {}, "", "flush all in-core file state to disk"},
      {"help", "?", &Runner::help, 0, 1, "", {}, "[command]", "help for one or all commands"},
      {"info", "i", &Runner::info, 0, 0, "", {}, "", "prints information about the current file"},
      {"length", "l", &Runner::length, 0, 0, "", {}, "", "gets the length of the current file"},
      {"map", "", &Runner::map, 0, 0, "", {}, "", "prints the allocated areas of a file"},
      {"read",
       "r",
       &Runner::read,
       2,
       -1,
       "abCl:pP:qs:v",
       {},
       "[-abCqv] [-P pattern [-s off] [-l len]] off len",
       "reads a number of bytes at a specified offset"},
      {"readv",
       "rv",
       &Runner::read_vector,
       2,
       -1,
       "CP:qv",
       {},
       "[-Cqv] [-P pattern] off len [len..]",
       "reads a number of bytes at a specified offset"},
      {"remove_break",
       "",
       &Runner::remove_break,
       1,
       1,
       "",
       {},
       "tag",
       "remove a breakpoint by tag"},
      {"reopen",
       "",
       &Runner::reopen,
       0,
       -1,
       "c:rwo:",
       {},
       "[(-r|-w)] [-c cache] [-o options]",
       "reopens an image with new options"},
      {"resume", "", &Runner::resume, 1, 1, "", {}, "tag", "resumes the request tagged as tag"},
      {"sleep", "", &Runner::sleep, 1, 1, "", {}, "", "waits for the given value in milliseconds"},
      {"truncate", "t", &Runner::truncate, 1, 3,
       "m:", kWritePermission | Permissions(Permission::kResize), "[-m prealloc_mode] off",
       "truncates the current file at the given offset"},
      {"wait_break",
       "",
       &Runner::wait_break,
       1,
       1,
       "",
       {},
       "tag",
       "waits for the suspension of a request"},
      {"write", "w", &Runner::write, 2, -1, "bcCfnpP:qs:uz", kWritePermission,
       "[-bcCfnquz] [-P pattern | -s source_file] off len",
       "writes a number of bytes at a specified offset"},
      {"writev", "wv", &Runner::write_vector, 2, -1, "CfqP:", kWritePermission,
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
    print_(usage(entry->name, entry->arguments, entry->help));
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

bool Runner::range(const Call& call, uint64_t& offset, uint64_t& count) {
  const auto& positional = call.arguments.positional;
  if (positional.size() != 2) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    return false;
  }
  if (!number(positional[0], offset) || !number(positional[1], count)) return false;
  if (count > kMaxRequestBytes) {
    print_(fmt::format("length cannot exceed {}, given {}\n", kMaxRequestBytes, positional[1]));
    return false;
  }
  return true;
}

bool Runner::vector_length(const Call& call, std::size_t first, uint64_t& total) {
  const auto& positional = call.arguments.positional;
  if (positional.size() <= first) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    return false;
  }
  total = 0;
  for (std::size_t i = first; i < positional.size(); ++i) {
    uint64_t length = 0;
    if (!number(positional[i], length)) return false;
    if (length > kMaxRequestBytes) {
      print_(
          fmt::format("Argument '{}' exceeds maximum size {}\n", positional[i], kMaxRequestBytes));
      return false;
    }
    if (total > kMaxRequestBytes - length) {
      print_(
          fmt::format("The total number of bytes exceed the maximum size {}\n", kMaxRequestBytes));
      return false;
    }
    total += length;
  }
  return true;
}

Task<void> Runner::read(Call& call) {
  const Arguments& a = call.arguments;
  uint64_t pattern = 0, pattern_offset = 0, pattern_count = 0;
  if (a.has('l') && !number(a.value('l'), pattern_count)) co_return;
  if (a.has('P')) {
    const Number parsed = parse_pattern(a.value('P'));
    if (!parsed.value) {
      print_(parsed.complaint);
      co_return;
    }
    pattern = *parsed.value;
  }
  if (a.has('s') && !number(a.value('s'), pattern_offset)) co_return;
  uint64_t offset = 0, count = 0;
  if (!range(call, offset, count)) co_return;
  if (!a.has('P') && (a.has('l') || a.has('s'))) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  if (pattern_offset > count || (a.has('l') && pattern_count > count - pattern_offset)) {
    print_("pattern verification range exceeds end of read data\n");
    co_return;
  }
  if (!a.has('l')) pattern_count = count - pattern_offset;
  if (a.has('b')) {
    if (offset % kSector != 0) {
      print_(fmt::format("{} is not a sector-aligned value for 'offset'\n", offset));
      co_return;
    }
    if (count % kSector != 0) {
      print_(fmt::format("{} is not a sector-aligned value for 'count'\n", count));
      co_return;
    }
  }

  Buffer buffer(count);
  buffer.io().fill(kUnreadByte);
  const int64_t begun = graph_.env().now();
  Result<void> done;
  if (a.has('b')) {
    done = co_await beside_the_disk(call.backend, read_vm_state, offset, buffer.io());
  } else {
    done = co_await call.backend.read(offset, buffer.io());
  }
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("read failed: {}\n", strerror_text(done.error())));
    co_return;
  }
  if (a.has('P')) {
    const auto part = buffer.span().subspan(pattern_offset, pattern_count);
    if (!std::ranges::all_of(part,
                             [&](std::byte b) { return b == static_cast<std::byte>(pattern); })) {
      print_(fmt::format("Pattern verification failed at offset {}, {} bytes\n",
                         offset + pattern_offset, pattern_count));
    }
  }
  if (a.has('q')) co_return;
  if (a.has('v')) print_(dump_text(buffer.data(), offset, count));
  print_(report_text({"read", offset, count, count, 1, elapsed, a.has('C')}));
}

Task<void> Runner::read_vector(Call& call) {
  const Arguments& a = call.arguments;
  uint64_t pattern = 0, offset = 0, count = 0;
  if (a.has('P')) {
    const Number parsed = parse_pattern(a.value('P'));
    if (!parsed.value) {
      print_(parsed.complaint);
      co_return;
    }
    pattern = *parsed.value;
  }
  if (a.positional.size() < 2) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  if (!number(a.positional[0], offset) || !vector_length(call, 1, count)) co_return;
  Buffer buffer(count);
  buffer.io().fill(kUnreadByte);
  const int64_t begun = graph_.env().now();
  auto done = co_await call.backend.read(offset, buffer.io());
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("readv failed: {}\n", strerror_text(done.error())));
    co_return;
  }
  if (a.has('P') && !std::ranges::all_of(buffer.span(), [&](std::byte b) {
        return b == static_cast<std::byte>(pattern);
      })) {
    print_(fmt::format("Pattern verification failed at offset {}, {} bytes\n", offset, count));
  }
  if (a.has('q')) co_return;
  if (a.has('v')) print_(dump_text(buffer.data(), offset, count));
  print_(report_text({"read", offset, count, count, 1, elapsed, a.has('C')}));
}

Task<bool> Runner::fill_from_file(Buffer& buffer, const std::string& path) {
  auto file = co_await graph_.env().open_file(path, FileOpenOptions());
  if (!file) {
    warn_(fmt::format("{}: {}\n", path, strerror_text(file.error())));
    co_return false;
  }
  auto info = co_await (*file)->info();
  const uint64_t length = info ? std::min<uint64_t>(info->size, buffer.size()) : 0;
  Result<void> got;
  if (!info) {
    got = io_error(info.error());
  } else if (length > 0) {
    got = co_await (*file)->read(0, buffer.io(0, length));
  }
  (void)co_await (*file)->close();
  if (!got) {
    warn_(fmt::format("{}: {}\n", path, strerror_text(got.error())));
    co_return false;
  }
  if (length == 0) {
    warn_(fmt::format("{}: file is empty\n", path));
    co_return false;
  }
  for (std::size_t at = length; at < buffer.size(); at += length) {
    std::memcpy(buffer.data() + at, buffer.data(),
                std::min<std::size_t>(length, buffer.size() - at));
  }
  co_return true;
}

Task<void> Runner::write(Call& call) {
  const Arguments& a = call.arguments;
  uint64_t pattern = kWrittenByte, offset = 0, count = 0;
  if (a.has('P')) {
    const Number parsed = parse_pattern(a.value('P'));
    if (!parsed.value) {
      print_(parsed.complaint);
      co_return;
    }
    pattern = *parsed.value;
  }
  std::string_view wrong;
  if (a.positional.size() != 2) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  if (a.has('b') && a.has('z')) {
    wrong = "-b and -z cannot be specified at the same time\n";
  } else if (a.has('f') && (a.has('b') || a.has('c'))) {
    wrong = "-f and -b or -c cannot be specified at the same time\n";
  } else if (a.has('n') && !a.has('z')) {
    wrong = "-n requires -z to be specified\n";
  } else if (a.has('u') && !a.has('z')) {
    wrong = "-u requires -z to be specified\n";
  } else if (static_cast<int>(a.has('z')) + static_cast<int>(a.has('P')) +
                 static_cast<int>(a.has('s')) >
             1) {
    wrong = "Only one of -z, -P, and -s can be specified at the same time\n";
  }
  if (!wrong.empty()) {
    print_(wrong);
    co_return;
  }
  if (!range(call, offset, count)) co_return;
  if (a.has('b') || a.has('c')) {
    if (offset % kSector != 0) {
      print_(fmt::format("{} is not a sector-aligned value for 'offset'\n", offset));
      co_return;
    }
    if (count % kSector != 0) {
      print_(fmt::format("{} is not a sector-aligned value for 'count'\n", count));
      co_return;
    }
  }
  RequestFlags flags;
  flags.fua = a.has('f');
  flags.no_fallback = a.has('n');
  flags.may_unmap = a.has('u');
  flags.compressed = a.has('c');
  Buffer buffer;
  if (!a.has('z')) {
    buffer = Buffer(count);
    if (a.has('s')) {
      if (!co_await fill_from_file(buffer, a.value('s'))) co_return;
    } else {
      buffer.io().fill(static_cast<unsigned char>(pattern));
    }
  }
  const int64_t begun = graph_.env().now();
  Result<void> done;
  if (a.has('b')) {
    done = co_await beside_the_disk(call.backend, write_vm_state, offset, buffer.io());
  } else if (a.has('z')) {
    done = co_await call.backend.zero(offset, count, flags);
  } else {
    done = co_await call.backend.write(offset, buffer.io(), flags);
  }
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("write failed: {}\n", strerror_text(done.error())));
    co_return;
  }
  if (a.has('q')) co_return;
  print_(report_text({"wrote", offset, count, count, 1, elapsed, a.has('C')}));
}

Task<void> Runner::write_vector(Call& call) {
  const Arguments& a = call.arguments;
  uint64_t pattern = kWrittenByte, offset = 0, count = 0;
  if (a.has('P')) {
    const Number parsed = parse_pattern(a.value('P'));
    if (!parsed.value) {
      print_(parsed.complaint);
      co_return;
    }
    pattern = *parsed.value;
  }
  if (a.positional.size() < 2) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  if (!number(a.positional[0], offset) || !vector_length(call, 1, count)) co_return;
  Buffer buffer(count);
  buffer.io().fill(static_cast<unsigned char>(pattern));
  RequestFlags flags;
  flags.fua = a.has('f');
  const int64_t begun = graph_.env().now();
  auto done = co_await call.backend.write(offset, buffer.io(), flags);
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("writev failed: {}\n", strerror_text(done.error())));
    co_return;
  }
  if (a.has('q')) co_return;
  print_(report_text({"wrote", offset, count, count, 1, elapsed, a.has('C')}));
}

Task<void> Runner::discard(Call& call) {
  uint64_t offset = 0, count = 0;
  if (!range(call, offset, count)) co_return;
  const int64_t begun = graph_.env().now();
  auto done = co_await call.backend.discard(offset, count);
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("discard failed: {}\n", strerror_text(done.error())));
    co_return;
  }
  if (call.arguments.has('q')) co_return;
  print_(report_text({"discard", offset, count, count, 1, elapsed, call.arguments.has('C')}));
}

// One asynchronous request: it outlives the command that began it.
struct Runner::Pending {
  Backend& backend;
  Arguments arguments;
  uint64_t offset;
  uint64_t count;
  std::optional<uint64_t> pattern;
  Buffer buffer;
};

// What both kinds make of their arguments first; nothing when that ends the command.
std::unique_ptr<Runner::Pending> Runner::begin(Call& call, AccountedKind kind,
                                               std::string_view word) {
  const Arguments& a = call.arguments;
  auto pending = std::make_unique<Pending>(Pending{call.backend, a, 0, 0, {}, {}});
  if (a.has('P')) {
    const Number parsed = parse_pattern(a.value('P'));
    if (!parsed.value) {
      print_(parsed.complaint);
      return nullptr;
    }
    pending->pattern = parsed.value;
  }
  if (a.has('i')) {
    call.backend.accounting().invalid(kind);
    print_(fmt::format("injecting invalid {} request\n", word));
    return nullptr;
  }
  if (a.positional.size() < 2) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    return nullptr;
  }
  return pending;
}

Task<void> Runner::aio_read(Call& call) {
  const Arguments& a = call.arguments;
  auto pending = begin(call, AccountedKind::kRead, "read");
  if (!pending) co_return;
  if (!number(a.positional[0], pending->offset) || !vector_length(call, 1, pending->count))
    co_return;
  pending->buffer = Buffer(pending->count);
  pending->buffer.io().fill(kUnreadByte);
  gate_.spawn(complete_read(std::move(pending)));
}

Task<void> Runner::complete_read(std::unique_ptr<Pending> pending) {
  const int64_t begun = graph_.env().now();
  Accounting& accounting = pending->backend.accounting();
  const int64_t accounted_from = accounting.begin();
  auto done = co_await pending->backend.read(pending->offset, pending->buffer.io());
  const int64_t ended = graph_.env().now();
  if (!done) {
    print_(fmt::format("readv failed: {}\n", strerror_text(done.error())));
    accounting.failed(AccountedKind::kRead, accounted_from);
    co_return;
  }
  const uint64_t count = pending->count;
  if (pending->pattern && !std::ranges::all_of(pending->buffer.span(), [&](std::byte b) {
        return b == static_cast<std::byte>(*pending->pattern);
      })) {
    print_(fmt::format("Pattern verification failed at offset {}, {} bytes\n", pending->offset,
                       count));
  }
  accounting.done(AccountedKind::kRead, count, accounted_from);
  if (pending->arguments.has('q')) co_return;
  if (pending->arguments.has('v'))
    print_(dump_text(pending->buffer.data(), pending->offset, count));
  print_(report_text(
      {"read", pending->offset, count, count, 1, ended - begun, pending->arguments.has('C')}));
}

Task<void> Runner::aio_write(Call& call) {
  const Arguments& a = call.arguments;
  auto pending = begin(call, AccountedKind::kWrite, "write");
  if (!pending) co_return;
  if (a.has('z') && a.positional.size() != 2) {
    print_("-z supports only a single length parameter\n");
    co_return;
  }
  if (a.has('u') && !a.has('z')) {
    print_("-u requires -z to be specified\n");
    co_return;
  }
  if (!number(a.positional[0], pending->offset) || !vector_length(call, 1, pending->count))
    co_return;
  if (!a.has('z')) {
    pending->buffer = Buffer(pending->count);
    pending->buffer.io().fill(static_cast<unsigned char>(pending->pattern.value_or(kWrittenByte)));
  }
  gate_.spawn(complete_write(std::move(pending)));
}

Task<void> Runner::complete_write(std::unique_ptr<Pending> pending) {
  const int64_t begun = graph_.env().now();
  Accounting& accounting = pending->backend.accounting();
  const int64_t accounted_from = accounting.begin();
  RequestFlags flags;
  flags.fua = pending->arguments.has('f');
  flags.may_unmap = pending->arguments.has('u');
  Result<void> done;
  if (pending->arguments.has('z')) {
    done = co_await pending->backend.zero(pending->offset, pending->count, flags);
  } else {
    done = co_await pending->backend.write(pending->offset, pending->buffer.io(), flags);
  }
  const int64_t ended = graph_.env().now();
  if (!done) {
    print_(fmt::format("aio_write failed: {}\n", strerror_text(done.error())));
    accounting.failed(AccountedKind::kWrite, accounted_from);
    co_return;
  }
  accounting.done(AccountedKind::kWrite, pending->count, accounted_from);
  if (pending->arguments.has('q')) co_return;
  print_(report_text({"wrote", pending->offset, pending->count, pending->count, 1, ended - begun,
                      pending->arguments.has('C')}));
}

Task<void> Runner::aio_flush(Call& call) {
  const int64_t begun = call.backend.accounting().begin();
  DrainedSection drained = co_await drain_all(graph_);
  drained.end();
  call.backend.accounting().done(AccountedKind::kFlush, 0, begun);
}

Task<void> Runner::flush(Call& call) {
  // QEMU says nothing of a failure either.
  (void)co_await call.backend.flush();
}

Task<void> Runner::truncate(Call& call) {
  const Arguments& a = call.arguments;
  TruncateOptions options;
  options.exact = false;
  if (a.has('m')) {
    const std::string& mode = a.value('m');
    if (mode == "off") {
      options.preallocation = Preallocation::kOff;
    } else if (mode == "metadata") {
      options.preallocation = Preallocation::kMetadata;
    } else if (mode == "falloc") {
      options.preallocation = Preallocation::kFalloc;
    } else if (mode == "full") {
      options.preallocation = Preallocation::kFull;
    } else {
      call.complaints += fmt::format("Invalid preallocation mode '{}'\n", mode);
      co_return;
    }
  }
  if (a.positional.empty()) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  uint64_t length = 0;
  if (!number(a.positional[0], length)) co_return;
  if (auto done = co_await call.backend.truncate(length, options); !done) {
    call.complaints += done.error().description + "\n";
  }
}

Task<void> Runner::length(Call& call) {
  auto length = co_await length_of(call.backend);
  if (!length) {
    print_(fmt::format("getlength: {}\n", strerror_text(length.error())));
    co_return;
  }
  print_(size_text(static_cast<double>(*length)) + "\n");
}

Task<void> Runner::info(Call& call) {
  Node* node = call.backend.node();
  if (node == nullptr || lost_its_medium(*node)) co_return;
  print_(fmt::format("format name: {}\n", node->driver().name()));
  if (node->driver().is_protocol()) {
    print_(fmt::format("format name: {}\n", node->driver().name()));
  }
  const auto facts = driver_facts(*node);
  if (!facts) co_return;
  print_(fmt::format("cluster size: {}\n", size_text(static_cast<double>(facts->cluster_size))));
  print_(
      fmt::format("vm state offset: {}\n", size_text(static_cast<double>(facts->vm_state_offset))));
  if (auto specific = node->driver().specific_info()) {
    print_("Format specific information:\n");
    // QEMU prints this part where the monitor is.
    call.complaints += format_specific_text(to_json(*specific), 1);
  }
}

Task<void> Runner::alloc(Call& call) {
  uint64_t offset = 0, count = kSector;
  const auto& positional = call.arguments.positional;
  if (!number(positional[0], offset)) co_return;
  if (positional.size() > 1 && !number(positional[1], count)) co_return;
  Node* node = call.backend.node();
  const uint64_t start = offset;
  uint64_t allocated = 0, remaining = count;
  while (remaining > 0) {
    const uint64_t length = node == nullptr ? 0 : node->length();
    if (offset >= length) break;
    auto status = co_await node->block_status(offset, std::min(remaining, length - offset), false);
    if (!status) {
      print_(fmt::format("is_allocated failed: {}\n", strerror_text(status.error())));
      co_return;
    }
    if (status->length == 0) break;
    const uint64_t step = std::min(status->length, remaining);
    if (status->allocated) allocated += step;
    offset += step;
    remaining -= step;
  }
  count -= remaining;
  print_(fmt::format("{}/{} bytes allocated at offset {}\n", allocated, count,
                     size_text(static_cast<double>(start))));
}

Task<void> Runner::map(Call& call) {
  auto total = co_await length_of(call.backend);
  if (!total) {
    call.complaints +=
        fmt::format("Failed to query image length: {}\n", strerror_text(total.error()));
    co_return;
  }
  Node* node = call.backend.node();
  uint64_t offset = 0;
  while (offset < *total) {
    uint64_t end = offset;
    bool allocated = false;
    while (end < *total) {
      auto status = co_await node->block_status(end, *total - end, false);
      if (!status) {
        print_(fmt::format("Failed to get allocation status: {}\n", strerror_text(status.error())));
        co_return;
      }
      if (status->length == 0) break;
      if (end == offset) {
        allocated = status->allocated;
      } else if (status->allocated != allocated) {
        break;
      }
      end += status->length;
    }
    if (end == offset) {
      print_("Unexpected end of image\n");
      co_return;
    }
    const uint64_t length = end - offset;
    print_(fmt::format("{} (0x{:x}) bytes {} at offset {} (0x{:x})\n",
                       size_text(static_cast<double>(length)), length,
                       allocated ? "    allocated" : "not allocated",
                       size_text(static_cast<double>(offset)), offset));
    offset = end;
  }
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

namespace {

// The first blkdebug node below the backend, as QEMU looks for it: along the storage.
DebugListener* listener_below(const Backend& backend) {
  for (Node* node = backend.node(); node != nullptr; node = node->primary_node()) {
    if (DebugListener* listener = node->debug_listener()) return listener;
  }
  return nullptr;
}

}  // namespace

Task<void> Runner::set_break(Call& call) {
  DebugListener* listener = listener_below(call.backend);
  const auto& words = call.arguments.positional;
  const Result<void> done = listener == nullptr
                                ? Result<void>(io_error(ENOTSUP))
                                : listener->set_breakpoint(words[0], words[1], breakpoint_print_);
  if (!done) print_(fmt::format("Could not set breakpoint: {}\n", strerror_text(done.error())));
  co_return;
}

Task<void> Runner::remove_break(Call& call) {
  DebugListener* listener = listener_below(call.backend);
  const std::string& tag = call.arguments.positional[0];
  const Result<void> done =
      listener == nullptr ? Result<void>(io_error(ENOTSUP)) : listener->remove_breakpoint(tag);
  if (!done) {
    print_(fmt::format("Could not remove breakpoint {}: {}\n", tag, strerror_text(done.error())));
  }
  co_return;
}

Task<void> Runner::reopen(Call& call) {
  if (!call.arguments.positional.empty()) {
    print_(usage(call.entry.name, call.entry.arguments, call.entry.help));
    co_return;
  }
  auto done = co_await reopen_as_told(graph_, call.backend, std::move(call.arguments));
  if (done) co_return;
  call.complaints += done.error().description + "\n";
  if (!done.error().hint.empty()) call.complaints += done.error().hint + "\n";
}

Task<void> Runner::resume(Call& call) {
  DebugListener* listener = listener_below(call.backend);
  const Result<void> done = listener == nullptr ? Result<void>(io_error(ENOTSUP))
                                                : listener->resume(call.arguments.positional[0]);
  if (!done) print_(fmt::format("Could not resume request: {}\n", strerror_text(done.error())));
  co_return;
}

Task<void> Runner::wait_break(Call& call) {
  const std::string tag = call.arguments.positional[0];
  const NodeRef keep(*call.backend.node());
  // The listener may go while this waits: it is looked for again each time.
  for (;;) {
    DebugListener* listener = listener_below(call.backend);
    if (listener == nullptr || listener->is_suspended(tag)) co_return;
    co_await listener->suspensions().wait();
  }
}

Task<void> Runner::help(Call& call) {
  if (call.arguments.positional.empty()) {
    for (const Entry* entry = find(""); !entry->name.empty(); ++entry) {
      print_(usage(entry->name, entry->arguments, entry->help));
    }
    print_("\nUse 'help commandname' for extended help.\n");
    co_return;
  }
  const std::string& name = call.arguments.positional[0];
  const Entry* entry = find(name);
  print_(entry == nullptr ? fmt::format("command {} not found\n", name)
                          : usage(entry->name, entry->arguments, entry->help));
}

std::string format_specific_text(const json::Value& specific, int indent) {
  // Unions of the schema wrap what is printed in {"type": ..., "data": {...}}.
  const json::Value* data = specific.as_object().find("data");
  const json::Object& object =
      data != nullptr && data->is_object() ? data->as_object() : specific.as_object();
  std::string text;
  const auto print_value = [&](auto& self, const std::string& key, const json::Value& value,
                               int depth) -> void {
    const std::string pad(static_cast<std::size_t>(depth) * 4, ' ');
    std::string shown = key;
    std::ranges::replace(shown, '-', ' ');
    if (value.is_object()) {
      text += fmt::format("{}{}:\n", pad, shown);
      for (const json::Object::Member* member : members_in_print_order(value.as_object())) {
        self(self, member->first, member->second, depth + 1);
      }
    } else if (value.is_array()) {
      text += fmt::format("{}{}:\n", pad, shown);
      std::size_t index = 0;
      for (const json::Value& member : value.as_array())
        self(self, fmt::format("[{}]", index++), member, depth + 1);
    } else if (value.is_bool()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_bool());
    } else if (value.is_string()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_string());
    } else if (value.is_int64()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_int64());
    } else if (value.is_integer()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_uint64());
    } else if (value.is_number()) {
      text += fmt::format("{}{}: {}\n", pad, shown, value.as_double());
    }
  };
  for (const json::Object::Member* member : members_in_print_order(object)) {
    print_value(print_value, member->first, member->second, indent);
  }
  return text;
}

}  // namespace blockbed::qemu_io
