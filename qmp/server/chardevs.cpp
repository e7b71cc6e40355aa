#include "qmp/server/chardevs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <tuple>

#include "qmp/schema/scalar_text.h"
#include "qmp/server/messages.h"

namespace blockbed::server {

namespace {

struct Backend {
  std::string_view name;
  ChardevKind kind = ChardevKind::kSink;
  // What it asks for when there is no path.
  std::string_view without_path = {};
};

constexpr Backend kBackends[] = {
    {"socket", ChardevKind::kSocket, {}},
    {"stdio", ChardevKind::kStdio, {}},
    {"file", ChardevKind::kFile, "chardev: file: no filename given"},
    {"pipe", ChardevKind::kPipe, "chardev: pipe: no device path given"},
    {"serial", ChardevKind::kDevice, "chardev: serial/tty: no device path given"},
    {"tty", ChardevKind::kDevice, "chardev: serial/tty: no device path given"},
    {"pty", ChardevKind::kPty, {}},
    {"null"},
    {"vc"},
    {"ringbuf"},
    {"memory"},
    {"msmouse"},
    {"testdev"},
    {"wctablet"},
    {"mux"},
    {"udp"},
    {"parallel"},
    {"parport"},
    {"braille"},
    {"spicevmc"},
    {"spiceport"},
    {"qemu-vdagent"},
    {"dbus"}};

// Of any backend: the options are one list.
constexpr std::string_view kOptions[] = {
    "backend",   "id",        "path",    "host",      "port",      "fd",        "localaddr",
    "to",        "ipv4",      "ipv6",    "wait",      "server",    "delay",     "nodelay",
    "tls-creds", "tls-authz", "telnet",  "tn3270",    "websocket", "width",     "height",
    "cols",      "rows",      "mux",     "signal",    "name",      "debug",     "size",
    "chardev",   "append",    "logfile", "logappend", "mouse",     "clipboard", "localport",
    "reconnect", "abstract",  "tight"};

Expected<void> check_keys(const OptionText& options) {
  for (const auto& [key, value] : options.items()) {
    if (std::ranges::find(kOptions, key) == std::end(kOptions))
      return fail(fmt::format("Invalid parameter '{}'", key));
  }
  return {};
}

Expected<ChardevSpec> parse_socket(OptionText options) {
  for (const char* protocol : {"telnet", "tn3270", "websocket"}) {
    auto wanted = options.take_switch(protocol, false);
    if (!wanted) return std::unexpected(wanted.error());
    if (*wanted) return fail(fmt::format("'{}' is not implemented by Blockbed", protocol));
  }
  if (options.has("tls-creds")) return fail("'tls-creds' is not implemented by Blockbed");
  if (options.has("path") + options.has("fd") + options.has("host") > 1)
    return fail("None or one of 'path', 'fd' or 'host' option required.");
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
  } else if (options.has("host")) {
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
  if (auto known = check_keys(options); !known) return std::unexpected(std::move(known).error());
  const auto backend = options.take("backend");
  if (!backend) return fail(fmt::format("chardev: \"{}\" missing backend", options.text("id")));
  const auto id = options.take("id");
  if (!id) return fail("chardev: no id specified");
  const auto known = std::ranges::find(kBackends, *backend, &Backend::name);
  if (known == std::end(kBackends))
    return fail(fmt::format("'{}' is not a valid char driver name", *backend));
  auto multiplexed = options.take_switch("mux", false);
  if (!multiplexed) return std::unexpected(multiplexed.error());
  auto append = options.take_switch("append", false);
  if (!append) return std::unexpected(append.error());
  Expected<ChardevSpec> spec;
  if (known->kind == ChardevKind::kSocket) {
    spec = parse_socket(std::move(options));
    if (!spec) return spec;
  } else {
    if (!known->without_path.empty() && !options.has("path"))
      return fail(std::string(known->without_path));
    spec->path = options.text("path");
  }
  spec->kind = known->kind;
  spec->backend = *backend;
  spec->id = *id;
  spec->multiplexed = *multiplexed;
  spec->append = *append;
  return spec;
}

std::expected<Expected<ChardevSpec>, std::string> parse_chardev_short_form(std::string_view text) {
  ChardevSpec spec;
  if (text.starts_with("mon:")) {
    text.remove_prefix(4);
    spec.multiplexed = true;
  }
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
  for (const auto& [prefix, kind, backend] :
       {std::tuple{"file:", ChardevKind::kFile, "file"},
        std::tuple{"pipe:", ChardevKind::kPipe, "pipe"},
        std::tuple{"/dev/", ChardevKind::kDevice, "serial"}}) {
    if (!text.starts_with(prefix)) continue;
    spec.kind = kind;
    spec.backend = backend;
    spec.path = kind == ChardevKind::kDevice ? text : text.substr(5);
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
  } else if (text.starts_with("tcp:") || text.starts_with("telnet:") ||
             text.starts_with("websocket:")) {
    const std::size_t begin = text.find(':') + 1;
    rest = text.substr(begin, comma == std::string_view::npos ? comma : comma - begin);
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos) return std::unexpected(std::string());
    std::string_view host = rest.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    options = fmt::format("host={},port={}{}", host, rest.substr(colon + 1), tail);
    if (!text.starts_with("tcp:")) options += fmt::format(",{}=on", text.substr(0, begin - 1));
  } else if (text.starts_with("fd:")) {
    options = fmt::format("fd={}", text.substr(3));
  } else {
    return std::unexpected(fmt::format("'{}' is not a valid char driver", text));
  }
  auto parsed = OptionText::parse(options, text.starts_with("unix:") ? "path" : "");
  if (!parsed) return std::unexpected(parsed.error().description);
  if (auto known = check_keys(*parsed); !known) return std::unexpected(known.error().description);
  return parse_socket(*std::move(parsed));
}

Chardevs::~Chardevs() { close(); }

Task<Expected<void>> Chardevs::add(ChardevSpec spec, std::string location) {
  if (devices_.contains(spec.id))
    co_return fail(fmt::format("Duplicate ID '{}' for chardev", spec.id));
  Device device;
  if (spec.kind == ChardevKind::kStdio) {
    if (stdio_forbidden_) co_return fail("cannot use stdio with -daemonize");
    if (stdio_used_) co_return fail("cannot use stdio by multiple character devices");
    stdio_used_ = true;
  }
  device.spec = std::move(spec);
  if (auto opened = open_file(device); !opened) co_return fail(std::move(opened).error());
  if (device.file || device.spec.kind == ChardevKind::kStdio ||
      device.spec.kind == ChardevKind::kSocket) {
    device.endpoint = std::make_unique<Endpoint>(env_, device.spec.endpoint);
    device.seen = device.endpoint.get();
    if (auto opened = co_await device.endpoint->open(); !opened)
      co_return fail(std::move(opened).error());
    if (!device.endpoint->first_failure().empty()) {
      report_error("", fmt::format("Unable to connect character device {}: {}", device.spec.id,
                                   device.endpoint->first_failure()));
    }
    if (device.endpoint->must_wait()) {
      report_info(location, fmt::format("QEMU waiting for connection on: {}",
                                        device.endpoint->description()));
      if (auto waited = co_await device.endpoint->wait_for_first(); !waited)
        co_return fail(std::move(waited).error());
    }
  }
  std::string id = device.spec.id;
  devices_.emplace(std::move(id), std::move(device));
  co_return Expected<void>();
}

Expected<void> Chardevs::open_file(Device& device) {
  ChardevSpec& spec = device.spec;
  Expected<CharacterFile> file = std::unexpected(Error());
  switch (spec.kind) {
    case ChardevKind::kFile:
      file = CharacterFile::open_output(spec.path, spec.append);
      break;
    case ChardevKind::kPipe:
      file = CharacterFile::open_pipe(spec.path);
      break;
    case ChardevKind::kDevice:
      file = CharacterFile::open_device(spec.path);
      break;
    case ChardevKind::kPty:
      file = CharacterFile::open_pty();
      break;
    case ChardevKind::kSocket:
    case ChardevKind::kStdio:
    case ChardevKind::kSink:
      return {};
  }
  if (!file) return std::unexpected(std::move(file).error());
  spec.endpoint.input = file->input();
  spec.endpoint.output = file->output();
  spec.endpoint.description = spec.backend;
  if (spec.kind == ChardevKind::kPty) {
    spec.endpoint.description += ":" + file->name();
    write_stdout(fmt::format("char device redirected to {} (label {})\n", file->name(), spec.id));
  }
  device.file = *std::move(file);
  return {};
}

Expected<void> Chardevs::claim(std::string_view id) {
  const auto found = devices_.find(id);
  if (found == devices_.end()) return fail(fmt::format("chardev \"{}\" not found", id));
  Device& device = found->second;
  if (device.claimed && !device.spec.multiplexed)
    return fail(fmt::format("Device '{}' is in use", id));
  device.claimed = true;
  return {};
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
    result.push_back({id, device.seen != nullptr ? device.seen->description() : device.spec.backend,
                      device.claimed});
  }
  return result;
}

}  // namespace blockbed::server
