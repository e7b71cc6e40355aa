// The generic options of a node: what the user says of reading, writing and caching, and what
// follows for the nodes below.
//
// Contract: what options do not say comes from the parent in whose options the node is defined, or
// is the default. Errors: QEMU's texts. Threading: pure functions.
// Source of the rules: QEMU's documentation of BlockdevOptions, and what query-named-block-nodes
// shows.
#pragma once

#include <optional>
#include <string_view>

#include "block/graph/graph.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

// The generic options in force: what the user gave, else what follows from the parent.
NodeFlags flags_from(const json::Object& options, const std::optional<InheritedOptions>& inherited);

// Only for reading may what others write be read.
Expected<void> check_force_share(const NodeFlags& flags);
// `options`: what the user gave.
Expected<void> check_detect_zeroes(const NodeFlags& flags, const json::Object& options);

// What a child gets when its own options say nothing: a layer below takes care of what the layer
// above promises.
InheritedOptions inherited_from(const NodeFlags& above, ChildRoles roles);

// The generic options that a reopen may change (flat names), and so may leave out.
bool is_changeable_generic_option(std::string_view name);

// Options that are the node's own: without its children's definitions.
json::Object without_children(const Node& node, const json::Object& options);

}  // namespace blockbed
