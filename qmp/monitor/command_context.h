// What a command handler is told about who asked.
//
// Contract: the monitor outlives every command. The session may end while a command of it runs; the
// context keeps the session's object alive, and what is sent to an ended session is dropped. The
// engine's own objects (graph, jobs, machine) are not here: handlers capture them when they are
// registered.
#pragma once

#include <memory>

namespace blockbed {

class DescriptorBag;
class Monitor;
class QmpSession;

class CommandContext {
 public:
  // `session` is null for a command that no QMP client sent (the command line, a test).
  CommandContext(Monitor& monitor, std::shared_ptr<QmpSession> session,
                 std::shared_ptr<DescriptorBag> descriptors)
      : monitor_(monitor), session_(std::move(session)), descriptors_(std::move(descriptors)) {}

  Monitor& monitor() const { return monitor_; }
  QmpSession* session() const { return session_.get(); }
  // The file descriptors that came with the bytes of this command (SCM_RIGHTS); null when none did.
  DescriptorBag* received_descriptors() const { return descriptors_.get(); }

 private:
  Monitor& monitor_;
  std::shared_ptr<QmpSession> session_;
  std::shared_ptr<DescriptorBag> descriptors_;
};

}  // namespace blockbed
