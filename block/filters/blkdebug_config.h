// The file of rules that blkdebug's option `config` names.
//
// Format: lines `[inject-error]` and `[set-state]` begin a rule, optionally with an identifier in
// quotes; `key = "value"` lines belong to it; a line that begins with '#' and an empty one say
// nothing. The values are those of the options of the same names, as text.
// Bounds: kMaxDebugConfigBytes; a longer file is refused before it is read.
// Errors: QEMU's words. Source of the rules: QEMU 7.2, tried out. Threading: pure function.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "block/filters/blkdebug_rules.h"
#include "qmp/schema/error.h"

namespace blockbed {

// Tens of thousands of rules; hand-written files have a few.
inline constexpr uint64_t kMaxDebugConfigBytes = uint64_t{1} << 20;

struct DebugConfig {
  std::vector<InjectErrorRule> inject;
  std::vector<SetStateRule> set_state;
};

Expected<DebugConfig> parse_debug_config(std::string_view text);

}  // namespace blockbed
