#include "block/runtime/assert.h"

#include <cstdio>
#include <cstdlib>

namespace blockbed {

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "blockbed: %s:%d: assertion failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace blockbed
