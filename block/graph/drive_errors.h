// What is wrong with the options of -drive, in the words that -drive has for it; json:{...} names
// have the same.
//
// Problem: options are read by the schema, which complains as blockdev-add does; -drive names what
// is unexpected or missing by the driver that does not want it, in older words.
//
// Source of the texts: QEMU 7.2. Threading: pure function.
#pragma once

#include "qmp/schema/error.h"
#include "qmp/schema/json.h"

namespace blockbed {

class DriverRegistry;

// `options`: the tree that was read, with the drivers that were found by looking.
Error in_drive_words(Error error, const json::Object& options, const DriverRegistry& drivers);

}  // namespace blockbed
