// Requests to an image that the end of a fuzz input describes (image_and_requests.h).
//
// Contract: send_requests() sends them one after the other, closes and opens the image where they
// say so, and closes it at the end. `failed` says that one failed in a way that may leak clusters.
// Threading: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "block/formats/qcow2/check.h"
#include "fuzz/image_and_requests.h"
#include "fuzz/memory_image.h"

namespace blockbed::fuzz {

// What a check says of the file. Nothing: it was not closed, or cannot be checked.
Task<std::optional<qcow2::CheckReport>> judge(FuzzStorage& file);

// It is clean as it is, and would be if it had grown to its bound: a check ignores counts of what
// lies behind the end, and what is written next may grow over them.
Task<bool> clean_before(FuzzStorage& file);

// Which requests are likely.
enum class RequestMix { kWrites, kSnapshots };

// Opens, sends, closes. When the image was clean before, it is an assertion that it is so
// afterwards.
void write_to_image(std::span<const uint8_t> input, RequestMix mix);

}  // namespace blockbed::fuzz
