// Making an empty image file on the host: the `file` branch of blockdev-create.
//
// Contract: creates the file or empties an existing one, then gives it its size. Another program
// that uses the file is noticed by image locks. An existing file's bytes are gone only after its
// locks were taken. Errors: `Could not create 'NAME': TEXT`, lock conflicts, `Could not resize
// file: TEXT`. Threading: engine thread only.
#pragma once

#include <functional>

#include "block/runtime/task.h"
#include "qmp/schema/error.h"

namespace blockbed {

class Env;
namespace schema {
struct BlockdevCreateOptionsFile;
}

// `opened`, if given, is awaited once the file is there and open.
Task<Expected<void>> create_file(Env& env, const schema::BlockdevCreateOptionsFile& options,
                                 std::function<Task<void>()> opened = nullptr);

}  // namespace blockbed
