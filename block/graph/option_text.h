// What -drive takes in other words than blockdev-add: options as the text that was typed.
//
// Problem: -drive gives a node's options as text, in forms that the schema does not know
// ("size=1G", "discard=on"); blockdev-add's own text (-blockdev) has none of them.
//
// json:{...} names have the same forms, and numbers and booleans beside them.
//
// Contract: each turns text into text that schema::from_keyval reads, in place; values that are no
// text are left alone. Errors: QEMU's texts. Threading: pure functions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "block/graph/graph.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// What is told of a value that is no size, with the units that there are.
std::unexpected<Error> no_size(std::string_view name);

// A size that the schema has as a signed number.
Expected<std::optional<uint64_t>> size_option(std::string_view name, std::optional<int64_t> value);

// Sizes with an optional unit, of the options in `names` that are there.
Expected<void> read_size_text(json::Object& options, std::initializer_list<std::string_view> names);

// A number, a boolean, or what is made of them, as -drive would have it typed.
json::Value as_option_text(const json::Value& value);

// All values as text; what is null or empty is not given, but for `backing`, where both say
// something.
void options_to_text(json::Object& options);

// All options of a node and of the nodes defined in it: the generic ones, and the drivers' own.
Expected<void> read_option_text(const DriverRegistry& drivers, json::Object& options);

}  // namespace blockbed
