// The reply of query-qmp-schema.
//
// Problem: a client walks this description from a command to every type it can send or receive, to
// learn what the server can do, so it must tell the truth about this server: commands that are not
// implemented, and the types that only they use, must not be in it.
//
// Contract: for a set of commands and a program, the entities in QEMU's form and order: commands
// and events as the schema has them, then types as they were first used; types that a client must
// not name are numbered, in the order of first use, 0 upwards; arrays are `[element]`. Commands
// that the schema does not have are ignored. Nothing is built before the first call, and nothing is
// kept after it. Threading: pure function of constant tables.
#pragma once

#include <span>
#include <string_view>

#include "qmp/schema/json.h"

namespace blockbed::schema {

enum class Program { kSystem, kDaemon };

json::Array introspect(Program program, std::span<const std::string_view> implemented_commands);

}  // namespace blockbed::schema
