// nbd-server-start, -add, -remove, -stop, block-export-add, -del and query-block-exports.
//
// Contract: texts and the order of events and replies are QEMU 7.2's (export_registry.h). The
// command line's --nbd-server and --export use the same functions. Errors: Expected, texts for the
// client. Threading: engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "block/exports/export_registry.h"
#include "block/exports/nbd/server.h"
#include "qmp/monitor/command_table.h"
#include "qmp/monitor/descriptors.h"
#include "schema/sockets.h"

namespace blockbed {

struct ExportServices {
  ExportRegistry& registry;
  nbd::NbdServer& nbd;
  // The type of the object of that id ("secret", "tls-creds-x509"); no value when there is none.
  std::function<std::optional<std::string>(std::string_view id)> object_type;
};

// What nbd-server-start and --nbd-server ask for.
struct NbdServerRequest {
  schema::SocketAddress address;
  std::optional<std::string> tls_creds;
  std::optional<uint32_t> max_connections;

  NbdServerRequest() = default;
};

// `descriptors` holds those that `fd` addresses name; null where none can be named, as on the
// command line, where `fd` is a number.
Task<Expected<void>> start_nbd_server(const ExportServices& services, NbdServerRequest request,
                                      DescriptorNames* descriptors);

// The services are copied; what they refer to outlives the table.
void register_export_commands(CommandTable& commands, ExportServices services);

}  // namespace blockbed
