// One message of a QMP client, checked as far as that is possible without knowing the command.
//
// Contract: parse_request never fails as a whole; what is wrong with a message is its `error`,
// which takes its turn in the queue like a command, because replies come in the order of the
// messages. The `id` is kept whenever the message was an object. Texts are QEMU's, and of several
// faults the one that QEMU would find first is told: it looks at members in the order of its hash
// table (json::in_print_order).
#pragma once

#include <optional>
#include <string>

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

struct Request {
  std::optional<json::Value> id;
  std::string command;
  // An object.
  json::Value arguments = json::Object();
  // Sent with `exec-oob`.
  bool out_of_band = false;
  std::optional<Error> error;
};

// `message` is what the framer gave. `oob_enabled`: the session negotiated the capability, without
// which `exec-oob` is an unknown member.
Request parse_request(Expected<json::Value> message, bool oob_enabled);

// {"return": ..., "id": ...} or {"error": {...}, "id": ...}
json::Object make_reply(Expected<json::Value> result, std::optional<json::Value> id);

}  // namespace blockbed
