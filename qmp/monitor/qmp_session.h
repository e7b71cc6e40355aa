// One QMP client: greeting, negotiation, its commands and the events that it sees.
//
// Contract
//  - run() greets, then serves until the client ends its input, the stream fails, or end() is
//    called.
//  - Before `qmp_capabilities` has succeeded, every other command is an error and no event is sent.
//  - Commands run in the order of their arrival. Without the capability `oob` the next message is
//    read after the reply to the one before; with it up to kQueueLength messages wait, and
//    `exec-oob` commands are executed as they are read.
//  - Every message is answered once; an event that a command emits before it ends precedes the
//    command's reply.
//  - The end of the input ends this session only, after what was sent before it has been answered.
//    When the stream fails, messages that still wait are dropped, a command that runs goes on and
//    its reply is dropped.
// Threading: engine thread. Held by shared_ptr: a running command keeps it alive.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/runtime/stream.h"
#include "block/runtime/sync.h"
#include "block/runtime/task.h"
#include "qmp/monitor/descriptors.h"
#include "qmp/monitor/output_queue.h"
#include "qmp/monitor/request.h"
#include "qmp/schema/json_parse.h"

namespace blockbed {

class Monitor;

class QmpSession : public std::enable_shared_from_this<QmpSession> {
 public:
  // The specification tells clients that eight in-band commands may be in flight.
  static constexpr std::size_t kQueueLength = 8;

  // `outlives_input`: the end of what is read is not the end of what is written (standard input and
  // output).
  QmpSession(Monitor& monitor, std::unique_ptr<Stream> stream, bool pretty, bool outlives_input);

  Task<void> run();
  // Makes run() end after what is queued for the client was sent, or could not be sent for
  // Monitor::kLingerNs.
  Task<void> end();

  bool negotiated() const { return negotiated_; }
  bool pretty() const { return pretty_; }
  // What qmp_capabilities does.
  void complete_negotiation(bool oob);

  // `text` is one message in this session's form, as json::write or json::write_pretty made it.
  void send(std::string_view text);
  // Bytes that are no message (Monitor::print).
  void send_raw(std::string_view bytes) { output_.append(bytes); }

 private:
  struct Queued {
    Request request;
    std::shared_ptr<DescriptorBag> descriptors;
  };

  Task<void> read_messages();
  Task<void> take(Expected<json::Value> message, std::shared_ptr<DescriptorBag> descriptors);
  bool must_wait() const;
  Task<void> execute_next();
  Task<void> execute(Queued queued);
  void send(const json::Object& message);
  void close_if_overflowed();

  Monitor& monitor_;
  std::unique_ptr<Stream> stream_;
  const bool pretty_;
  const bool outlives_input_;
  json::Framer framer_;
  OutputQueue output_;
  WaitQueue room_;
  std::deque<Queued> queue_;
  // Messages that were taken and not answered: those in queue_ and the one that runs.
  std::size_t unanswered_ = 0;
  bool negotiated_ = false;
  bool oob_ = false;
  bool ended_ = false;
};

}  // namespace blockbed
