// EventSink: the one way in which the block layer tells the world what happened.
//
// Contract: emit() returns at once; the events of one sink are seen in the order of emission,
// before the reply of a command that was still running when they were emitted. The monitor
// implements it; tests record. Threading: engine thread only.
#pragma once

#include <string_view>

#include "qmp/schema/json.h"

namespace blockbed {

class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void emit(std::string_view event, json::Value data) = 0;

  // A line for people who watch the server: what an operator should know whether a client listens
  // or not. It goes to standard error as it is.
  virtual void tell(std::string_view line) { (void)line; }
  // The same of what went wrong: the program's name goes in front.
  virtual void tell_error(std::string_view text) { (void)text; }

  // Typed form: `sink.emit(schema::events::BlockJobReady{...})`.
  template <class E>
  void emit(const E& event) {
    emit(E::kName, to_json(event));
  }
};

}  // namespace blockbed
