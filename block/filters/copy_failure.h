// CopyFailure: why one copy did not succeed.
//
// Units: errno. Threading: plain data.
#pragma once

#include "block/runtime/result.h"

namespace blockbed {

struct CopyFailure {
  Errno error;
  // Of the source's read; else of the target's write.
  bool is_read;
};

}  // namespace blockbed
