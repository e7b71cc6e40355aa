// Options of the form `driver=qcow2,file.driver=file,file.filename=a,,b` as a tree.
//
// Problem: -blockdev, -object, --export and --nbd-server take the same data as their monitor
// commands, as text.
//
// Contract: the text becomes an object whose scalars are all strings; from_keyval (codec.h) gives
// them types.
//  - A key is made of fragments joined by dots. A fragment is a name (a letter, then letters,
//    digits, `-`, `_`; or `__RFQDN_` before one) or, but for the first, a number. An object all of
//    whose keys are numbers is an array.
//  - `,,` in a value stands for a comma. A scalar given twice has the value given last.
//  - The first item may be a value alone, if `implied_key` names the key that it belongs to.
//  - An item `help` or `?` asks for help; what else the text holds is still checked.
// Errors: GenericError in QEMU's words. Source: the behaviour of QEMU 7.2,
// tests/schema/compare_arguments.py. Threading: pure function.
#pragma once

#include <cstddef>
#include <string_view>

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed::schema {

// QEMU's limit, less the byte that ends a string there.
inline constexpr size_t kMaxKeyFragment = 127;
// QEMU has no limit; ours is that of JSON, so that no tree is too deep for the code that walks
// trees.
inline constexpr size_t kMaxKeyFragments = json::kMaxDepth;

struct Keyval {
  json::Value tree;
  bool help = false;
};

Expected<Keyval> parse_keyval(std::string_view text, std::string_view implied_key = {});

}  // namespace blockbed::schema
