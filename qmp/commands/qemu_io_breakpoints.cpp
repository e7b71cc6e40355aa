#include <fmt/format.h>

#include "block/graph/debug_event.h"
#include "block/graph/node.h"
#include "qmp/commands/qemu_io_call.h"

namespace blockbed::qemu_io {

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

}  // namespace blockbed::qemu_io
