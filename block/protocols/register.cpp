#include "block/protocols/register.h"

#include <fmt/format.h>

#include "block/graph/filename.h"
#include "block/graph/graph.h"
#include "block/graph/option_text.h"
#include "block/protocols/file.h"
#include "block/protocols/null.h"

namespace blockbed {

namespace {

constexpr char kFilePrefix[] = "file:";
constexpr char kDevicePrefix[] = "host_device:";
constexpr char kCoName[] = "null-co://";
constexpr char kAioName[] = "null-aio://";

// There is nothing that a name could tell.
template <const char* allowed>
Expected<json::Object> only_name(std::string_view filename) {
  if (filename == allowed) return json::Object();
  return fail(fmt::format("The only allowed filename for this driver is '{}'", allowed));
}

// `prefix` in front of a path means the path, as an option has it. A colon there must not make the
// name of another protocol of it, where it stands alone.
template <const char* prefix>
Expected<json::Object> path_behind(std::string_view filename) {
  json::Object options;
  std::string path(filename);
  if (filename.starts_with(prefix)) {
    path = filename.substr(std::string_view(prefix).size());
    if (protocol_of(path)) path.insert(0, "./");
  }
  options.set("filename", std::move(path));
  return options;
}

}  // namespace

void register_protocols(DriverRegistry& registry) {
  DriverEntry file;
  file.name = "file";
  file.is_protocol = true;
  file.protocol_names = {"file"};
  file.parse_filename = path_behind<kFilePrefix>;
  file.open = [](OpenContext& context, const schema::BlockdevOptions& options) {
    return FileDriver::open(context, options, /*device=*/false);
  };
  registry.add(std::move(file));

  DriverEntry device;
  device.name = "host_device";
  device.is_protocol = true;
  device.protocol_names = {"host_device"};
  device.parse_filename = path_behind<kDevicePrefix>;
  device.open = [](OpenContext& context, const schema::BlockdevOptions& options) {
    return FileDriver::open(context, options, /*device=*/true);
  };
  registry.add(std::move(device));

  for (const bool is_aio : {false, true}) {
    const char* const name = is_aio ? "null-aio" : "null-co";
    DriverEntry null;
    null.name = name;
    null.is_protocol = true;
    null.protocol_names = {name};
    null.read_text = [](json::Object& options) { return read_size_text(options, {"size"}); };
    null.parse_filename = is_aio ? only_name<kAioName> : only_name<kCoName>;
    null.open = [name](OpenContext& context, const schema::BlockdevOptions& options) {
      return NullDriver::open(context, options, name);
    };
    registry.add(std::move(null));
  }
}

}  // namespace blockbed
