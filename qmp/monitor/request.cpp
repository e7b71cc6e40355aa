#include "qmp/monitor/request.h"

#include <fmt/format.h>

#include "qmp/schema/json_write.h"

namespace blockbed {
namespace {

Error fault(std::string_view member, std::string_view what) {
  return Error(fmt::format("QMP input member '{}' {}", member, what));
}

// What is wrong with the members, and where the command's name is.
Expected<std::string_view> check(const json::Object& message, bool oob_enabled) {
  std::string_view command_member;
  for (const json::Object::Member* member : json::in_print_order(message)) {
    const auto& [name, value] = *member;
    if (name == "execute" || (name == "exec-oob" && oob_enabled)) {
      if (!value.is_string()) return fail(fault(name, "must be a string"));
      if (!command_member.empty()) {
        return fail(fault(name, fmt::format("clashes with '{}'", command_member)));
      }
      command_member = name;
    } else if (name == "arguments") {
      if (!value.is_object()) return fail(fault(name, "must be an object"));
    } else if (name != "id") {
      return fail(fault(name, "is unexpected"));
    }
  }
  if (command_member.empty()) return fail("QMP input lacks member 'execute'");
  return command_member;
}

}  // namespace

Request parse_request(Expected<json::Value> message, bool oob_enabled) {
  Request request;
  if (!message) {
    request.error = std::move(message).error();
    return request;
  }
  if (!message->is_object()) {
    request.error = Error("QMP input must be a JSON object");
    return request;
  }
  json::Object& object = message->as_object();
  if (json::Value* id = object.find("id")) request.id = std::move(*id);
  request.out_of_band = oob_enabled && object.contains("exec-oob") && !object.contains("execute");

  const Expected<std::string_view> command_member = check(object, oob_enabled);
  if (!command_member) {
    request.error = command_member.error();
    return request;
  }
  request.command = std::move(object.find(*command_member)->as_string());
  if (json::Value* arguments = object.find("arguments")) request.arguments = std::move(*arguments);
  return request;
}

json::Object make_reply(Expected<json::Value> result, std::optional<json::Value> id) {
  json::Object reply;
  if (result) {
    reply.append_new("return", *std::move(result));
  } else {
    Error& error = result.error();
    json::Object details;
    details.append_new("class", std::string(error_class_name(error.error_class)));
    details.append_new("desc", std::move(error.description));
    reply.append_new("error", std::move(details));
  }
  if (id) reply.append_new("id", *std::move(id));
  return reply;
}

}  // namespace blockbed
