// BB_ASSERT: a statement about our own code that stays checked in release builds.
//
// Contract: never for what a file, a client or a peer sent (those get an error); a failure ends the
// process at once, so that a broken engine cannot write.
#pragma once

namespace blockbed {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace blockbed

#define BB_ASSERT(expression)          \
  (__builtin_expect(!!(expression), 1) \
       ? (void)0                       \
       : ::blockbed::assertion_failed(#expression, __FILE__, __LINE__))
