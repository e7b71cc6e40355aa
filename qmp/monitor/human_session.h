// One user of the human monitor: banner, prompt, lines and answers.
//
// Contract: as QmpSession, for people. Lines are executed one after the other, in turn with the
// commands of other monitors; what is typed while a command runs waits. After the end of the input
// nothing more is executed. Every line end is sent as CR LF. Threading: engine thread. Held by
// shared_ptr: a running command keeps it alive.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "block/runtime/stream.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"
#include "qmp/monitor/line_editor.h"
#include "qmp/monitor/output_queue.h"

namespace blockbed {

class Monitor;

class HumanSession : public std::enable_shared_from_this<HumanSession> {
 public:
  HumanSession(Monitor& monitor, std::unique_ptr<Stream> stream);

  Task<void> run();
  // As QmpSession::end().
  Task<void> end();

  // Text with '\n' as its line ends.
  void print(std::string_view text);
  // Bytes as they are (Monitor::print).
  void print_raw(std::string_view bytes) { output_.append(bytes); }

 private:
  Task<void> read_lines();
  Task<void> execute(std::string line);

  Monitor& monitor_;
  std::unique_ptr<Stream> stream_;
  LineEditor editor_;
  OutputQueue output_;
  WaitQueue done_;
  bool running_ = false;
  bool silent_ = false;
  bool ended_ = false;
};

}  // namespace blockbed
