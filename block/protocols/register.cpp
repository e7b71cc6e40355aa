#include "block/protocols/register.h"

#include "block/graph/graph.h"
#include "block/graph/option_text.h"
#include "block/protocols/file.h"
#include "block/protocols/null.h"

namespace blockbed {

void register_protocols(DriverRegistry& registry) {
  DriverEntry file;
  file.name = "file";
  file.is_protocol = true;
  file.protocol_names = {"file"};
  file.open = [](OpenContext& context, const schema::BlockdevOptions& options) {
    return FileDriver::open(context, options, /*device=*/false);
  };
  registry.add(std::move(file));

  DriverEntry device;
  device.name = "host_device";
  device.is_protocol = true;
  device.protocol_names = {"host_device"};
  device.parse_filename = [](std::string_view filename) -> Expected<json::Object> {
    json::Object options;
    options.set("filename", filename.substr(std::string_view("host_device:").size()));
    return options;
  };
  device.open = [](OpenContext& context, const schema::BlockdevOptions& options) {
    return FileDriver::open(context, options, /*device=*/true);
  };
  registry.add(std::move(device));

  for (const char* name : {"null-co", "null-aio"}) {
    DriverEntry null;
    null.name = name;
    null.is_protocol = true;
    null.protocol_names = {name};
    null.read_text = [](json::Object& options) { return read_size_text(options, {"size"}); };
    null.parse_filename = [](std::string_view filename) -> Expected<json::Object> {
      if (filename == "null-co://" || filename == "null-aio://") return json::Object();
      return fail("The only allowed filename for this driver is 'null-co://'");
    };
    null.open = [name](OpenContext& context, const schema::BlockdevOptions& options) {
      return NullDriver::open(context, options, name);
    };
    registry.add(std::move(null));
  }
}

}  // namespace blockbed
