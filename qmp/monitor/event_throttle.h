// Events that may come too often.
//
// Source: QEMU's documentation of QMP limits some events to one a second: of further ones within
// the second only the last is sent, when the second is over. The limit holds for each source of the
// event (a node, a device) by itself. Contract: pass() gives the event on at once or keeps it;
// `deliver` gets what was kept. Time is the Env's. Threading: engine thread. stop() ends the waits
// and drops what is kept.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/runtime/env.h"
#include "block/runtime/gate.h"
#include "qmp/schema/json.h"

namespace blockbed {

class EventThrottle {
 public:
  using Deliver = std::function<void(json::Object event)>;

  static constexpr int64_t kPeriodNs = 1'000'000'000;

  EventThrottle(Env& env, Deliver deliver);

  // `event` is complete, with its timestamp: a kept event tells when it happened, not when it was
  // sent.
  void pass(std::string_view name, json::Object event);
  Task<void> stop();

 private:
  struct Source {
    std::unique_ptr<Timer> timer;
    std::optional<json::Object> kept;
  };

  Task<void> hold(std::string key);

  Env& env_;
  Deliver deliver_;
  Gate gate_;
  bool stopping_ = false;
  std::map<std::string, Source> sources_;
};

}  // namespace blockbed
