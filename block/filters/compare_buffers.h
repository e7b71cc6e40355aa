// What filters that keep several copies need: where two buffers differ, and the end of the program
// when they may not.
// Threading: any.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/runtime/buffers.h"

namespace blockbed {

class EventSink;

// The first byte in which they differ; both have the same size.
std::optional<uint64_t> first_difference(const IoVector& a, const IoVector& b);

// Says why on standard error and ends the program with status 1 at once, so that both copies stay
// as they are: who asks for a comparison wants to look at them.
[[noreturn]] void stop_on_mismatch(EventSink& events, const std::string& why);

}  // namespace blockbed
