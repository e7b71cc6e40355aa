#include "qmp/server/chardevs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "qmp/schema/scalar_text.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

constexpr std::string_view kSinks[] = {
    "null",    "vc",       "ringbuf",   "memory",       "msmouse", "testdev",  "wctablet",
    "mux",     "udp",      "pipe",      "serial",       "tty",     "parallel", "parport",
    "braille", "spicevmc", "spiceport", "qemu-vdagent", "dbus"};

Expected<ChardevSpec> parse_socket(OptionText options) {
  ChardevSpec spec;
  spec.kind = ChardevKind::kSocket;
  spec.backend = "socket";
  auto server = options.take_switch("server", false);
  if (!server) return std::unexpected(server.error());
  spec.endpoint.server = *server;
  if (!*server && options.has("wait")) {
    return fail("'wait' option is incompatible with socket in client connect mode");
  }
  auto wait = options.take_switch("wait", true);
  if (!wait) return std::unexpected(wait.error());
  spec.endpoint.wait = *wait;
  auto reconnect = options.take_number("reconnect");
  if (!reconnect) return std::unexpected(reconnect.error());
  // A day: longer waits are mistakes of units.
  constexpr uint64_t kMaxReconnectSeconds = 86400;
  spec.endpoint.reconnect_seconds =
      static_cast<int>(std::min(reconnect->value_or(0), kMaxReconnectSeconds));
  if (*server && *reconnect && **reconnect != 0) {
    return fail("'reconnect' option is incompatible with socket in server listen mode");
  }

  if (const auto path = options.take("path")) {
    UnixAddress address;
    address.path = *path;
    auto abstract = options.take_switch("abstract", false);
    if (!abstract) return std::unexpected(abstract.error());
    address.abstract = *abstract;
    spec.endpoint.address = address;
  } else if (options.has("host") || options.has("port")) {
    InetAddress address;
    address.host = options.text("host");
    const auto port = options.take("port");
    if (!port) return fail("chardev: socket: no port given");
    address.port = *port;
    for (const auto& [key, flag] :
         {std::pair{"ipv4", &address.ipv4}, std::pair{"ipv6", &address.ipv6}}) {
      if (!options.has(key)) continue;
      auto value = options.take_switch(key, true);
      if (!value) return std::unexpected(value.error());
      *flag = *value;
    }
    if (auto to = options.take_number("to"); !to) {
      return std::unexpected(to.error());
    } else if (*to) {
      if (**to > 65535) return fail("Parameter 'to' expects a port number");
      address.to = static_cast<uint16_t>(**to);
    }
    spec.endpoint.address = address;
  } else {
    const std::string text = options.text("fd");
    const auto number = schema::parse_int64(text);
    if (!number || *number < 0 || *number > INT32_MAX)
      return fail(fmt::format("Unable to parse FD number {}", text));
    spec.endpoint.address = DescriptorAddress{static_cast<int>(*number)};
  }
  return spec;
}

}  // namespace

Expected<ChardevSpec> parse_chardev(OptionText options) {
  const auto backend = options.take("backend");
  if (!backend) return fail(fmt::format("chardev: \"{}\" missing backend", options.text("id")));
  const auto id = options.take("id");
  if (!id) return fail("chardev: no id specified");
  Expected<ChardevSpec> spec;
  if (*backend == "socket") {
    spec = parse_socket(std::move(options));
    if (!spec) return spec;
  } else if (*backend == "stdio") {
    spec->kind = ChardevKind::kStdio;
  } else if (*backend == "file") {
    spec->kind = ChardevKind::kFile;
    if (!options.has("path")) return fail("chardev: file: no filename given");
  } else if (*backend == "pty") {
    spec->kind = ChardevKind::kPty;
  } else if (std::ranges::find(kSinks, *backend) != std::end(kSinks)) {
    spec->kind = ChardevKind::kSink;
  } else {
    return fail(fmt::format("'{}' is not a valid char driver name", *backend));
  }
  spec->backend = *backend;
  spec->id = *id;
  return spec;
}

std::optional<Expected<ChardevSpec>> parse_chardev_short_form(std::string_view text) {
  if (text.starts_with("mon:")) text.remove_prefix(4);
  ChardevSpec spec;
  if (text == "stdio") {
    spec.kind = ChardevKind::kStdio;
    spec.backend = "stdio";
    return spec;
  }
  if (text == "null" || text == "vc" || text.starts_with("vc:") || text == "msmouse" ||
      text == "testdev") {
    spec.backend = text.substr(0, text.find(':'));
    return spec;
  }
  if (text == "pty") {
    spec.kind = ChardevKind::kPty;
    spec.backend = "pty";
    return spec;
  }
  if (text.starts_with("file:")) {
    spec.kind = ChardevKind::kFile;
    spec.backend = "file";
    return spec;
  }
  std::string_view rest;
  std::string options;
  const std::size_t comma = text.find(',');
  const std::string_view tail =
      comma == std::string_view::npos ? std::string_view() : text.substr(comma);
  if (text.starts_with("unix:")) {
    // "unix:/p,server=on" and "unix:path=/p,server=on"
    options = text.substr(5);
  } else if (text.starts_with("tcp:")) {
    rest = text.substr(4, comma == std::string_view::npos ? comma : comma - 4);
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = rest.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    options = fmt::format("host={},port={}{}", host, rest.substr(colon + 1), tail);
  } else if (text.starts_with("fd:")) {
    options = fmt::format("fd={}", text.substr(3));
  } else {
    return std::nullopt;
  }
  auto parsed = OptionText::parse(options, text.starts_with("unix:") ? "path" : "");
  if (!parsed) return std::unexpected(parsed.error());
  return parse_socket(*std::move(parsed));
}

Chardevs::~Chardevs() { close(); }

Task<Expected<void>> Chardevs::add(ChardevSpec spec, std::string location) {
  if (has(spec.id)) co_return fail(fmt::format("Duplicate ID '{}' for chardev", spec.id));
  Device device;
  if (spec.kind == ChardevKind::kStdio) {
    if (stdio_used_) co_return fail("cannot use stdio by multiple character devices");
    stdio_used_ = true;
  }
  if (spec.kind == ChardevKind::kStdio || spec.kind == ChardevKind::kSocket) {
    device.endpoint = std::make_unique<Endpoint>(env_, spec.endpoint);
    device.seen = device.endpoint.get();
    if (auto opened = co_await device.endpoint->open(); !opened)
      co_return fail(std::move(opened).error());
    if (device.endpoint->must_wait()) {
      report_info(location, fmt::format("QEMU waiting for connection on: {}",
                                        device.endpoint->description()));
      if (auto waited = co_await device.endpoint->wait_for_first(); !waited)
        co_return fail(std::move(waited).error());
    }
  }
  device.spec = std::move(spec);
  std::string id = device.spec.id;
  devices_.emplace(std::move(id), std::move(device));
  co_return Expected<void>();
}

std::unique_ptr<Endpoint> Chardevs::take(std::string_view id) {
  return std::move(devices_.find(id)->second.endpoint);
}

void Chardevs::close() {
  for (auto& [id, device] : devices_) {
    if (device.endpoint) device.endpoint->close();
    device.endpoint.reset();
  }
}

std::vector<Chardevs::Description> Chardevs::descriptions() const {
  std::vector<Description> result;
  for (const auto& [id, device] : devices_) {
    const bool is_endpoint = device.seen != nullptr;
    result.push_back({id, is_endpoint ? device.seen->description() : device.spec.backend,
                      is_endpoint && device.endpoint == nullptr});
  }
  return result;
}

}  // namespace blockbed::server
