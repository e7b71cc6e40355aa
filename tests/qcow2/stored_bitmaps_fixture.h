// What the next one to open an image believes of its persistent bitmaps, and whether that may be: a
// bitmap is complete, or in use, or not there; never believed with bits missing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/formats/qcow2/create.h"
#include "block/formats/qcow2/image.h"
#include "block/runtime/env.h"

namespace blockbed::qcow2::test {

using Bits = std::vector<uint8_t>;

inline constexpr uint8_t kGranularity = 9;

struct Look {
  // What the first sector of the disk holds.
  std::byte data{};
  // Those that are there; the bits of those that may be believed.
  std::map<std::string, std::optional<Bits>> bitmaps;
};

// Its bits end within a byte.
CreateOptions uneven_disk(uint64_t cluster, uint64_t clusters);

// Of the image "disk", which has no fault but leaks.
Task<std::optional<Look>> look_at(Env& env, std::string where, std::string data_path = {});

// Whether `name` of `look`, which is believed, is so in `state`: with the same bits and data.
bool believable(const Look& look, const std::string& name, const Look& state);

// The first sector. Whether that was told to be done.
Task<bool> put(Image& image, std::byte value);

}  // namespace blockbed::qcow2::test
