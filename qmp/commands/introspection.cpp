#include "qmp/commands/introspection.h"

#include <vector>

#include "qmp/monitor/command_context.h"
#include "qmp/schema/introspect.h"
#include "schema/introspect.h"

namespace blockbed {

void register_introspection_command(CommandTable& commands) {
  // The reply is a table already: giving it types and taking them away again would cost more than
  // making it.
  commands.implement_raw(
      schema::commands::QueryQmpSchema::kName, schema::commands::QueryQmpSchema::kFlags,
      PlainCommand([&commands](CommandContext&, json::Value arguments) -> CommandResult {
        auto checked = schema::from_json<schema::commands::QueryQmpSchema::Args>(arguments);
        if (!checked) return fail(std::move(checked).error());
        const auto program = commands.manner() == Manner::kSystem ? schema::Program::kSystem
                                                                  : schema::Program::kDaemon;
        const std::vector<std::string_view> names = commands.implemented();
        return json::Value(schema::introspect(program, names));
      }));
}

}  // namespace blockbed
