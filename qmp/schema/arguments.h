// Arguments of any command, by the command's name.
//
// Problem: a command that the schema has and the server does not implement should still tell a
// client what is wrong with its arguments; tests and fuzzers want to reach every reader by data.
//
// Contract: read_arguments checks the arguments of a command as dispatch would and gives them back
// as they were understood: absent members with a default filled in, scalars of keyval mode with
// their types. Errors: the reader's, and CommandNotFound. Threading: pure function.
#pragma once

#include <string_view>

#include "qmp/schema/codec.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed::schema {

Expected<json::Value> read_arguments(std::string_view command, const json::Value& arguments,
                                     Mode mode = Mode::kStrict);

}  // namespace blockbed::schema
