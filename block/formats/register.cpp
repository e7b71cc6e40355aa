#include "block/formats/register.h"

#include "block/formats/qcow2/driver.h"
#include "block/formats/qcow2/options.h"
#include "block/formats/raw.h"
#include "block/graph/graph.h"
#include "block/graph/option_text.h"

namespace blockbed {

void register_formats(DriverRegistry& registry) {
  DriverEntry raw;
  raw.name = RawDriver::kName;
  raw.open = RawDriver::open;
  raw.probe = RawDriver::probe;
  raw.read_text = [](json::Object& options) { return read_size_text(options, {"offset", "size"}); };
  registry.add(std::move(raw));

  DriverEntry qcow2;
  qcow2.name = qcow2::Qcow2Driver::kName;
  qcow2.open = qcow2::Qcow2Driver::open;
  qcow2.probe = qcow2::Qcow2Driver::probe;
  qcow2.read_text = qcow2::read_option_text;
  registry.add(std::move(qcow2));
}

}  // namespace blockbed
