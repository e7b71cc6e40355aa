// File names of nodes: the words by which users and images name what is to be opened, and by which
// we name it to them.
//
// Source of the rules: QEMU 7.2: a name with "PROTOCOL:" in front belongs to that protocol,
// "json:{...}" is a whole definition, everything else is a path; relative backing names start from
// the directory of the image. Threading: pure functions, but for the two that look at a node.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "block/graph/node.h"
#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

struct DriverEntry;
class DriverRegistry;

// "nbd" of "nbd:localhost:10809", "" of ":x"; none for paths. A colon after a slash belongs to the
// path.
std::optional<std::string_view> protocol_of(std::string_view filename);
bool is_absolute_path(std::string_view path);
// `name` as seen from the directory `base` (which ends in a slash or is empty).
std::string combine_paths(std::string_view base, std::string_view name);

struct FilenameOptions {
  json::Object options;
  // The name was json:{...}: the options are the node's, not its storage's.
  bool is_complete = false;
};
// Options of the protocol node that the name means: {"filename": ...} for a path, without driver
// unless the protocol prefix says one. Unknown protocol: "Unknown protocol 'x'". A protocol that
// was asked for by name reads what it is given, whosever name that may be: json:{...} alone is not
// its.
Expected<FilenameOptions> options_of_filename(const DriverRegistry& drivers,
                                              std::string_view filename,
                                              const DriverEntry* asked_for = nullptr);

// The full name of the backing file that the image of `node` names.
Expected<std::string> resolve_backing_name(const Node& node, std::string_view stored);

}  // namespace blockbed
