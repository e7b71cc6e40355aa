// Options as one level of keys, {"file.driver": "file"}, and as a tree, {"file": {"driver":
// "file"}}.
//
// Problem: names of nodes show lists of options flat ("inject-error.0.event"), and json:{...} names
// may give any option either way; the rest of the program knows trees only.
//
// Contract: a level of keys that are all numbers is an array and must count from 0 without a gap.
// Bounds: kMaxFlatDepth levels. Errors: QEMU's words. Threading: pure functions.
#pragma once

#include <string>

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// More than any tree of options has; each level is a recursion.
inline constexpr int kMaxFlatDepth = 512;

// Sets `key` to a scalar, and KEY.MEMBER for what a value with parts has.
void flatten_option(json::Object& into, const std::string& key, const json::Value& value);
// Keys with dots become trees, in values as well.
Expected<json::Object> nest_options(json::Object options);

}  // namespace blockbed
