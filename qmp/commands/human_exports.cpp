#include "qmp/commands/human_exports.h"

#include <fmt/format.h>

namespace blockbed {

namespace {

using Human = Task<Expected<void>>;

// nbd-server-start wants the address in two objects.
Expected<json::Object> parse_address(const std::string& text) {
  constexpr std::string_view kUnix = "unix:";
  json::Object data;
  std::string type;
  if (text.starts_with(kUnix)) {
    type = "unix";
    data.set("path", text.substr(kUnix.size()));
  } else {
    // An IPv6 address is in brackets: it has colons itself.
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon + 1 == text.size()) {
      return fail(fmt::format("error parsing address '{}'", text));
    }
    std::string host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    type = "inet";
    data.set("host", host);
    data.set("port", text.substr(colon + 1));
  }
  json::Object address;
  address.set("type", type);
  address.set("data", std::move(data));
  return address;
}

Human export_all(HumanContext& context, bool writable) {
  auto devices = co_await context.execute("query-block");
  if (!devices) co_return fail(std::move(devices).error());
  for (const json::Value& device : devices->as_array()) {
    if (device.as_object().find("inserted") == nullptr) continue;
    json::Object arguments;
    arguments.set("device", device.as_object().find("device")->as_string());
    arguments.set("writable", writable);
    BB_CO_TRY(co_await context.run("nbd-server-add", std::move(arguments)));
  }
  co_return Expected<void>();
}

Human start(HumanContext& context, HumanArguments arguments) {
  const bool all = arguments.flag("a");
  const bool writable = arguments.flag("w");
  if (writable && !all) co_return fail("-w only valid together with -a");
  auto address = parse_address(arguments.text("uri"));
  if (!address) co_return fail(std::move(address).error());
  json::Object request;
  request.set("addr", *std::move(address));
  BB_CO_TRY(co_await context.run("nbd-server-start", std::move(request)));
  if (!all) co_return Expected<void>();
  auto exported = co_await export_all(context, writable);
  if (!exported) (void)co_await context.execute("nbd-server-stop");
  co_return exported;
}

Human add(HumanContext& context, HumanArguments arguments) {
  json::Object request;
  request.set("device", arguments.text("device"));
  if (arguments.has("name")) request.set("name", arguments.text("name"));
  request.set("writable", arguments.flag("w"));
  co_return co_await context.run("nbd-server-add", std::move(request));
}

Human remove(HumanContext& context, HumanArguments arguments) {
  json::Object request;
  request.set("name", arguments.text("name"));
  request.set("mode", arguments.flag("f") ? "hard" : "safe");
  co_return co_await context.run("nbd-server-remove", std::move(request));
}

}  // namespace

void register_human_export_commands(HumanTable& human) {
  human.add(
      {.name = "nbd_server_start",
       .arguments = {{"a", HumanKind::kFlag}, {"w", HumanKind::kFlag}, {"uri", HumanKind::kString}},
       .parameters = "[-a] [-w] host:port",
       .help = "serve block devices at this address (-a: all there are; -w: for writing too)",
       .run = start});
  human.add({.name = "nbd_server_add",
             .arguments = {{"w", HumanKind::kFlag},
                           {"device", HumanKind::kBlockDevice},
                           {"name", HumanKind::kString, true}},
             .parameters = "[-w] device [name]",
             .help = "export a device or node by the NBD server (-w: for writing too)",
             .run = add});
  human.add({.name = "nbd_server_remove",
             .arguments = {{"f", HumanKind::kFlag}, {"name", HumanKind::kString}},
             .parameters = "[-f] name",
             .help = "end an export (-f: whoever uses it)",
             .run = remove});
  human.add({.name = "nbd_server_stop",
             .arguments = {},
             .parameters = "",
             .help = "stop the NBD server",
             .run = [](HumanContext& context, HumanArguments) -> Human {
               return context.run("nbd-server-stop");
             }});
}

}  // namespace blockbed
