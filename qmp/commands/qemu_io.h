// qemu-io: single requests to a backend, typed by a person or a test.
//
// Problem: test suites write and check images through `human-monitor-command "qemu-io DEVICE CMD"`
// and compare what that prints on the server's standard output.
//
// Contract
//  - run() executes one command line and returns when it is done; aio_read and aio_write return at
//    once and report when they end. The report goes to `print`, errors of the control path are
//    added to `complaints`.
//  - A command that writes takes the permissions that it needs of the backend, and they stay (QEMU
//    does the same: what aio_write began may still run).
//  - The backend outlives the runner's requests: finish() waits for all that this runner has begun.
// Errors: none are returned; QEMU's command succeeds whatever happened.
// Threading: engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/graph/backend.h"
#include "block/runtime/buffers.h"
#include "block/runtime/gate.h"
#include "block/runtime/task.h"
#include "qmp/commands/qemu_io_text.h"

namespace blockbed::qemu_io {

class Runner {
 public:
  using Print = std::function<void(std::string_view)>;

  // `warn` takes complaints about the command line, which QEMU writes to standard error.
  Runner(Graph& graph, Print print, Print warn);
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // Breakpoints take and release requests without a word.
  void silence_breakpoints() { breakpoint_print_ = nullptr; }

  Task<void> run(Backend& backend, std::string line, std::string& complaints);

  // Waits until the asynchronous requests have ended.
  Task<void> finish();
  bool idle() const { return gate_.inside() == 0; }

 private:
  struct Call;
  struct Entry;
  struct Transfer;
  static const Entry* find(std::string_view name);

  Task<void> read(Call& call);
  Task<void> read_vector(Call& call);
  Task<void> write(Call& call);
  Task<void> write_vector(Call& call);
  Task<void> discard(Call& call);
  Task<void> aio_read(Call& call);
  Task<void> aio_write(Call& call);
  Task<void> aio_flush(Call& call);
  Task<void> flush(Call& call);
  Task<void> truncate(Call& call);
  Task<void> length(Call& call);
  Task<void> info(Call& call);
  Task<void> alloc(Call& call);
  Task<void> map(Call& call);
  Task<void> sleep(Call& call);
  Task<void> abort(Call& call);
  Task<void> raise_signal(Call& call);
  Task<void> set_break(Call& call);
  Task<void> remove_break(Call& call);
  Task<void> reopen(Call& call);
  Task<void> resume(Call& call);
  Task<void> wait_break(Call& call);
  Task<void> help(Call& call);

  // These print what is wrong, and answer false or nothing then. A byte is that of `-P`; a range is
  // an offset and a length, a vector may have more lengths; `unless` says what would allow more
  // than one request takes.
  bool number(const std::string& text, uint64_t& out);
  bool byte(const Call& call, std::optional<std::byte>& out);
  bool range(const Call& call, uint64_t& offset, uint64_t& count);
  bool one_request(const Call& call, uint64_t count, std::string_view unless = {});
  bool has_offset_and_length(const Call& call);
  bool vector(const Call& call, uint64_t& offset, uint64_t& count);
  bool whole_sectors(uint64_t offset, uint64_t count);
  Task<bool> fill_from_file(Buffer& buffer, const std::string& path);
  std::unique_ptr<Transfer> begin(Call& call, AccountedKind kind, std::string_view name);

  // These print how it went, too.
  Task<Result<void>> perform_read(Transfer& transfer);
  Task<Result<void>> perform_write(Transfer& transfer);
  Task<void> perform_accounted(AccountedKind kind, std::unique_ptr<Transfer> transfer);

  Graph& graph_;
  Print print_;
  Print warn_;
  Print breakpoint_print_;
  Gate gate_;
};

// "format name: ...", for `info` and the details of `info block -v`.
std::string format_specific_text(const json::Value& specific, int indent);

}  // namespace blockbed::qemu_io
