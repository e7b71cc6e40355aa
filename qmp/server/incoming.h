// Where a guest would come from: -incoming and migrate-incoming.
//
// Problem: management software starts a machine as the target of a migration and prepares it while
// it waits: disks, exports, character devices. No guest can arrive here, since there is none to
// run; all that comes before is as with QEMU.
//
// Contract
//  - begin() opens the way in: `exec:COMMAND`, `fd:NUMBER` (or a name of `getfd`), `unix:PATH`,
//    `tcp:HOST:PORT`. There is one; when it cannot be opened another may be tried. MIGRATION tells
//    of every attempt.
//  - What comes in is looked at: a stream that is none of a migration is refused in QEMU's words,
//    any other because there is no guest. Both are told on standard error, refused() is true, and
//    `end` is called: the program ends with a failure.
//  - The missing end of a header is zeroes; a pipe that ends without a word is waited for on, as
//    QEMU does: nothing ever comes.
//  - stop() ends what is under way, the command too.
// Errors: QEMU's texts. Threading: engine thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "block/runtime/env.h"
#include "block/runtime/gate.h"
#include "qmp/monitor/endpoint.h"
#include "qmp/schema/error.h"
#include "qmp/server/child_process.h"

namespace blockbed {
class CommandTable;
class DescriptorNames;
class EventSink;
class RunStatus;
}  // namespace blockbed

namespace blockbed::server {

class Incoming {
 public:
  Incoming(Env& env, EventSink& events, std::function<void()> end);
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;

  // `named` is null on a command line, where descriptors have numbers only.
  Task<Expected<void>> begin(std::string uri, DescriptorNames* named);
  bool refused() const { return refused_; }
  // Where it listens.
  std::optional<SocketAddress> address() const;
  Task<void> stop();

 private:
  Task<Expected<void>> open(std::string uri, DescriptorNames* named);
  Expected<void> open_command(std::string_view command);
  Expected<void> open_descriptor(std::string_view text, DescriptorNames* named);
  Task<Expected<void>> listen(SocketAddress address);
  Task<void> receive();
  // Why what comes is refused; nothing: nothing comes.
  struct Verdict {
    std::string_view why;
    int error;
  };
  Task<std::optional<Verdict>> judge();
  // Less only at the end.
  Task<std::size_t> read(std::span<std::byte> into);
  void refuse(std::string_view why, int error);

  Env& env_;
  EventSink& events_;
  const std::function<void()> end_;
  std::unique_ptr<ChildProcess> command_;
  // One of them, and then the other.
  std::unique_ptr<Endpoint> listening_;
  std::unique_ptr<Stream> stream_;
  bool is_pipe_ = false;
  bool begun_ = false;
  bool refused_ = false;
  bool stopped_ = false;
  Gate gate_;
};

// migrate-incoming and query-migrate. All references outlive the table.
void register_incoming_commands(CommandTable& commands, Incoming& incoming,
                                const RunStatus& status);

}  // namespace blockbed::server
