// The input of targets that send requests: an image, then kRequestBytes for each request, then one
// byte: how many requests there are (modulo kMostRequests). One that is too short for that has
// none.
//
// A header of its own: the mutator of images reads it too, and what sends requests brings a check,
// a repair and more with it, whose counters every input of a target that only reads would pay for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace blockbed::fuzz {

inline constexpr std::size_t kRequestBytes = 4;
inline constexpr std::size_t kMostRequests = 24;

struct ImageAndRequests {
  std::span<const uint8_t> image;
  std::span<const uint8_t> requests;
};

inline ImageAndRequests split_input(std::span<const uint8_t> input) {
  if (input.empty()) return {};
  const std::size_t count = input.back() % kMostRequests;
  const std::size_t bytes = count * kRequestBytes;
  if (input.size() <= bytes) return {input, {}};
  const std::size_t image = input.size() - 1 - bytes;
  return {input.first(image), input.subspan(image, bytes)};
}

}  // namespace blockbed::fuzz
