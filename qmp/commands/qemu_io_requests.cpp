#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "block/graph/drain.h"
#include "block/graph/graph.h"
#include "block/graph/internal_snapshots.h"
#include "block/graph/medium.h"
#include "block/graph/node.h"
#include "block/runtime/env.h"
#include "qmp/commands/qemu_io_call.h"

namespace blockbed::qemu_io {

namespace {

// What buffers hold before a read and what a write without pattern writes: visible when a read
// fills too little.
constexpr std::byte kUnread{0xab};
constexpr std::byte kWritten{0xcd};

// `request` is read_vm_state or write_vm_state.
using VmStateRequest = Task<Result<void>>(Node&, uint64_t, IoVector);
Task<Result<void>> beside_the_disk(Backend& backend, VmStateRequest& request, uint64_t position,
                                   IoVector buffers) {
  Node* node = backend.node();
  if (node == nullptr || !has_medium(*node)) co_return io_error(ENOMEDIUM);
  co_return co_await request(*node, position, std::move(buffers));
}

Buffer filled(uint64_t count, std::byte value) {
  Buffer buffer(count);
  buffer.io().fill(static_cast<unsigned char>(value));
  return buffer;
}

}  // namespace

// One read or write. An asynchronous one outlives the command that began it.
struct Runner::Transfer {
  Backend& backend;
  Arguments arguments;
  // What failed, for who reads that it did.
  std::string_view name;
  std::optional<std::byte> pattern;
  uint64_t offset = 0;
  uint64_t count = 0;
  // What a read compares with the pattern.
  uint64_t compared_offset = 0;
  uint64_t compared_count = 0;
  // What a write has to write, unless that is zeroes.
  Buffer buffer;
};

// --- arguments

bool Runner::byte(const Call& call, std::optional<std::byte>& out) {
  if (!call.arguments.has('P')) return true;
  const Number parsed = parse_pattern(call.arguments.value('P'));
  if (!parsed.value) {
    print_(parsed.complaint);
    return false;
  }
  out = static_cast<std::byte>(*parsed.value);
  return true;
}

bool Runner::range(const Call& call, uint64_t& offset, uint64_t& count) {
  const auto& positional = call.arguments.positional;
  if (positional.size() != 2) {
    print_(call.entry.usage());
    return false;
  }
  return number(positional[0], offset) && number(positional[1], count);
}

bool Runner::one_request(const Call& call, uint64_t count, std::string_view unless) {
  if (count <= kMaxRequestBytes) return true;
  print_(fmt::format("length cannot exceed {}{}, given {}\n", kMaxRequestBytes, unless,
                     call.arguments.positional[1]));
  return false;
}

bool Runner::has_offset_and_length(const Call& call) {
  if (call.arguments.positional.size() >= 2) return true;
  print_(call.entry.usage());
  return false;
}

bool Runner::vector(const Call& call, uint64_t& offset, uint64_t& count) {
  const auto& positional = call.arguments.positional;
  if (!number(positional[0], offset)) return false;
  count = 0;
  for (std::size_t i = 1; i < positional.size(); ++i) {
    uint64_t length = 0;
    if (!number(positional[i], length)) return false;
    if (length > kMaxRequestBytes) {
      print_(
          fmt::format("Argument '{}' exceeds maximum size {}\n", positional[i], kMaxRequestBytes));
      return false;
    }
    if (count > kMaxRequestBytes - length) {
      print_(
          fmt::format("The total number of bytes exceed the maximum size {}\n", kMaxRequestBytes));
      return false;
    }
    count += length;
  }
  return true;
}

bool Runner::whole_sectors(uint64_t offset, uint64_t count) {
  for (const auto& [value, name] : {std::pair(offset, "offset"), std::pair(count, "count")}) {
    if (value % kSector == 0) continue;
    print_(fmt::format("{} is not a sector-aligned value for '{}'\n", value, name));
    return false;
  }
  return true;
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

// --- requests

Task<Result<void>> Runner::perform_read(Transfer& transfer) {
  const Arguments& a = transfer.arguments;
  const uint64_t offset = transfer.offset, count = transfer.count;
  Buffer buffer = filled(count, kUnread);
  const int64_t begun = graph_.env().now();
  Result<void> done;
  if (a.has('b')) {
    done = co_await beside_the_disk(transfer.backend, read_vm_state, offset, buffer.io());
  } else {
    done = co_await transfer.backend.read(offset, buffer.io());
  }
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("{} failed: {}\n", transfer.name, strerror_text(done.error())));
    co_return done;
  }
  const auto compared = buffer.span().subspan(transfer.compared_offset, transfer.compared_count);
  const auto fits = [&](std::byte b) { return b == *transfer.pattern; };
  if (transfer.pattern && !std::ranges::all_of(compared, fits)) {
    print_(fmt::format("Pattern verification failed at offset {}, {} bytes\n",
                       offset + transfer.compared_offset, compared.size()));
  }
  if (a.has('q')) co_return done;
  if (a.has('v')) print_(dump_text(buffer.data(), offset, count));
  print_(report_text({"read", offset, count, count, 1, elapsed, a.has('C')}));
  co_return done;
}

Task<Result<void>> Runner::perform_write(Transfer& transfer) {
  const Arguments& a = transfer.arguments;
  const uint64_t offset = transfer.offset, count = transfer.count;
  RequestFlags flags;
  flags.fua = a.has('f');
  flags.no_fallback = a.has('n');
  flags.may_unmap = a.has('u');
  flags.compressed = a.has('c');
  const int64_t begun = graph_.env().now();
  Result<void> done;
  if (a.has('b')) {
    done = co_await beside_the_disk(transfer.backend, write_vm_state, offset, transfer.buffer.io());
  } else if (a.has('z')) {
    done = co_await transfer.backend.zero(offset, count, flags);
  } else {
    done = co_await transfer.backend.write(offset, transfer.buffer.io(), flags);
  }
  const int64_t elapsed = graph_.env().now() - begun;
  if (!done) {
    print_(fmt::format("{} failed: {}\n", transfer.name, strerror_text(done.error())));
    co_return done;
  }
  if (a.has('q')) co_return done;
  print_(report_text({"wrote", offset, count, count, 1, elapsed, a.has('C')}));
  co_return done;
}

Task<void> Runner::perform_accounted(AccountedKind kind, std::unique_ptr<Transfer> transfer) {
  Accounting& accounting = transfer->backend.accounting();
  const int64_t begun = accounting.begin();
  const Result<void> done = kind == AccountedKind::kRead ? co_await perform_read(*transfer)
                                                         : co_await perform_write(*transfer);
  if (done) {
    accounting.done(kind, transfer->count, begun);
  } else {
    accounting.failed(kind, begun);
  }
}

// --- commands

Task<void> Runner::read(Call& call) {
  const Arguments& a = call.arguments;
  Transfer transfer{.backend = call.backend, .arguments = a, .name = "read"};
  if (a.has('l') && !number(a.value('l'), transfer.compared_count)) co_return;
  if (!byte(call, transfer.pattern)) co_return;
  if (a.has('s') && !number(a.value('s'), transfer.compared_offset)) co_return;
  if (!range(call, transfer.offset, transfer.count)) co_return;
  if (!one_request(call, transfer.count)) co_return;
  if (!a.has('P') && (a.has('l') || a.has('s'))) {
    print_(call.entry.usage());
    co_return;
  }
  if (transfer.compared_offset > transfer.count ||
      transfer.compared_count > transfer.count - transfer.compared_offset) {
    print_("pattern verification range exceeds end of read data\n");
    co_return;
  }
  if (!a.has('l')) transfer.compared_count = transfer.count - transfer.compared_offset;
  if (a.has('b') && !whole_sectors(transfer.offset, transfer.count)) co_return;
  (void)co_await perform_read(transfer);
}

Task<void> Runner::read_vector(Call& call) {
  Transfer transfer{.backend = call.backend, .arguments = call.arguments, .name = "readv"};
  if (!byte(call, transfer.pattern)) co_return;
  if (!has_offset_and_length(call) || !vector(call, transfer.offset, transfer.count)) co_return;
  transfer.compared_count = transfer.count;
  (void)co_await perform_read(transfer);
}

Task<void> Runner::write(Call& call) {
  const Arguments& a = call.arguments;
  Transfer transfer{.backend = call.backend, .arguments = a, .name = "write"};
  if (!byte(call, transfer.pattern)) co_return;
  std::string_view wrong;
  if (a.positional.size() != 2) {
    print_(call.entry.usage());
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
  if (!range(call, transfer.offset, transfer.count)) co_return;
  if (!a.has('n') && !one_request(call, transfer.count, " without -n")) co_return;
  if ((a.has('b') || a.has('c')) && !whole_sectors(transfer.offset, transfer.count)) co_return;
  if (!a.has('z')) transfer.buffer = filled(transfer.count, transfer.pattern.value_or(kWritten));
  if (a.has('s') && !co_await fill_from_file(transfer.buffer, a.value('s'))) co_return;
  (void)co_await perform_write(transfer);
}

Task<void> Runner::write_vector(Call& call) {
  Transfer transfer{.backend = call.backend, .arguments = call.arguments, .name = "writev"};
  if (!byte(call, transfer.pattern)) co_return;
  if (!has_offset_and_length(call) || !vector(call, transfer.offset, transfer.count)) co_return;
  transfer.buffer = filled(transfer.count, transfer.pattern.value_or(kWritten));
  (void)co_await perform_write(transfer);
}

Task<void> Runner::discard(Call& call) {
  uint64_t offset = 0, count = 0;
  if (!range(call, offset, count) || !one_request(call, count)) co_return;
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

// What both asynchronous ones make of their arguments first; nothing when that ends the command.
std::unique_ptr<Runner::Transfer> Runner::begin(Call& call, AccountedKind kind,
                                                std::string_view name) {
  const Arguments& a = call.arguments;
  auto transfer =
      std::make_unique<Transfer>(Transfer{.backend = call.backend, .arguments = a, .name = name});
  if (!byte(call, transfer->pattern)) return nullptr;
  if (a.has('i')) {
    call.backend.accounting().invalid(kind);
    print_(fmt::format("injecting invalid {} request\n",
                       kind == AccountedKind::kRead ? "read" : "write"));
    return nullptr;
  }
  return has_offset_and_length(call) ? std::move(transfer) : nullptr;
}

Task<void> Runner::aio_read(Call& call) {
  auto transfer = begin(call, AccountedKind::kRead, "readv");
  if (!transfer || !vector(call, transfer->offset, transfer->count)) co_return;
  transfer->compared_count = transfer->count;
  gate_.spawn(perform_accounted(AccountedKind::kRead, std::move(transfer)));
}

Task<void> Runner::aio_write(Call& call) {
  const Arguments& a = call.arguments;
  auto transfer = begin(call, AccountedKind::kWrite, "aio_write");
  if (!transfer) co_return;
  if (a.has('z') && a.positional.size() > 2) {
    print_("-z supports only a single length parameter\n");
    co_return;
  }
  if (a.has('u') && !a.has('z')) {
    print_("-u requires -z to be specified\n");
    co_return;
  }
  if (!vector(call, transfer->offset, transfer->count)) co_return;
  if (!a.has('z')) {
    transfer->buffer = filled(transfer->count, transfer->pattern.value_or(kWritten));
  }
  gate_.spawn(perform_accounted(AccountedKind::kWrite, std::move(transfer)));
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
    print_(call.entry.usage());
    co_return;
  }
  uint64_t length = 0;
  if (!number(a.positional[0], length)) co_return;
  if (auto done = co_await call.backend.truncate(length, options); !done) {
    call.complaints += done.error().description + "\n";
  }
}

}  // namespace blockbed::qemu_io
